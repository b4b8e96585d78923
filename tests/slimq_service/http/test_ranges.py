from __future__ import annotations

import pytest

from slimq_service.errors import RangeNotSatisfiableError
from slimq_service.http.ranges import is_unchanged, selected_range

ETAG = '"abc"'


def headers(**values: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in values.items()]


@pytest.mark.parametrize(
    ("value", "unchanged"),
    [
        ('"abc"', True),
        ('W/"abc"', True),
        ('"x", "abc"', True),
        ('"x,y",W/"abc" ', True),
        (" * ", True),
        ('"x"', False),
        ("abc", False),
        ('"ab"', False),
        ("", False),
    ],
)
def test_a_version_that_the_client_has(value: str, unchanged: bool) -> None:
    assert is_unchanged(headers(if_none_match=value), ETAG) is unchanged


def test_tags_in_several_headers_count_together() -> None:
    both = [(b"if-none-match", b'"x"'), (b"if-none-match", b'"abc"')]
    assert is_unchanged(both, ETAG)
    assert not is_unchanged([], ETAG)


@pytest.mark.parametrize(
    ("value", "selected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=10-19", (10, 20)),
        ("bytes=90-", (90, 100)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        ("Bytes = 5-6 ", (5, 7)),
        ("bytes=0-1,5-6", None),
        ("bytes=6-5", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=1-2-3", None),
        ("lines=0-1", None),
        (f"bytes={'9' * 19}-", None),
        ("", None),
    ],
)
def test_a_range_or_the_whole(value: str, selected: tuple[int, int] | None) -> None:
    assert selected_range(headers(range=value), ETAG, 100) == selected


@pytest.mark.parametrize("value", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_without_any_byte_is_refused_with_the_length(value: str) -> None:
    with pytest.raises(
        RangeNotSatisfiableError, match="Range: expected bytes from 0 to 99"
    ) as found:
        selected_range(headers(range=value), ETAG, 100)
    assert found.value.headers() == {"content-range": "bytes */100"}


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ('"abc"', True),
        ('W/"abc"', False),
        ('"x"', False),
        ("Mon, 30 Nov 2026 09:50:39 GMT", False),
    ],
)
def test_a_range_counts_only_for_the_version_that_was_begun(condition: str, holds: bool) -> None:
    found = selected_range(headers(range="bytes=5-", if_range=condition), ETAG, 100)
    assert found == ((5, 100) if holds else None)


def test_several_ranges_in_headers_of_their_own_are_several() -> None:
    twice = [(b"range", b"bytes=0-1"), (b"range", b"bytes=5-6")]
    assert selected_range(twice, ETAG, 100) is None
