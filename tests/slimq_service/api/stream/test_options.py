from __future__ import annotations

import pytest

from slimq.core.errors import InvalidInputError
from slimq_service.api.stream.options import CHOICES, StreamOptions, read_options
from slimq_service.errors import ConflictError


def test_without_a_query_nothing_changes() -> None:
    defaults = {name: values[0] for name, values in CHOICES.items()}
    assert read_options(b"") == StreamOptions() == StreamOptions(None, **defaults)  # type: ignore[arg-type]


def test_every_parameter_is_read() -> None:
    query = b"keep=newest&variant=int8&format=msgpack&errors=text&keep=newest"
    assert read_options(query) == StreamOptions("int8", "msgpack", "newest", "text")


@pytest.mark.parametrize("name", CHOICES)
def test_every_value_is_read_and_no_other(name: str) -> None:
    for value in CHOICES[name]:
        assert getattr(read_options(f"{name}={value}".encode()), name) == value
    expected = " or ".join(CHOICES[name])
    for wrong in ("", "none", CHOICES[name][0].upper()):
        with pytest.raises(InvalidInputError, match=f"^{name}: expected {expected}, received '"):
            read_options(f"{name}={wrong}".encode())


def test_errors_name_the_parameter() -> None:
    with pytest.raises(InvalidInputError, match="'msgpac', did you mean 'msgpack'"):
        read_options(b"format=msgpac")
    with pytest.raises(InvalidInputError, match=r"^query: expected only variant and .*'keeep'"):
        read_options(b"keeep=newest")
    with pytest.raises(ConflictError, match=r"^keep: expected one keep, received 'all' and 'newe"):
        read_options(b"keep=all&keep=newest")
    with pytest.raises(ConflictError, match=r"^variant: expected one variant, received 'a' and"):
        read_options(b"variant=a&variant=b")
