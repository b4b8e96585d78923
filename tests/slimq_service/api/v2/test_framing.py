from __future__ import annotations

import pytest

from slimq_service.api.v2.framing import json_length, split
from slimq_service.errors import MalformedError


def test_the_length_of_the_json_is_a_number_of_bytes() -> None:
    name = b"inference-header-content-length"
    assert json_length([]) is None
    assert json_length([(name, b"0")]) == 0
    assert json_length([(name, b"123")]) == 123
    for value in (b"-1", b"", b"1e3", b"1" * 19):
        with pytest.raises(MalformedError, match="Inference-Header-Content-Length"):
            json_length([(name, value)])


def test_a_body_is_split_after_its_json() -> None:
    whole = split(b"{}xyz", None)
    assert (whole.head, bytes(whole.binary), whole.length_given) == (b"{}xyz", b"", False)
    parts = split(b"{}xyz", 2)
    assert (parts.head, bytes(parts.binary), parts.length_given) == (b"{}", b"xyz", True)
    raw = split(b"{}xyz", 0)
    assert raw.head is None
    assert bytes(raw.binary) == b"{}xyz"
    assert split(b"{}", 2).binary == b""
    with pytest.raises(MalformedError, match=r"at most 2 \(the whole body\), received 3"):
        split(b"{}", 3)
