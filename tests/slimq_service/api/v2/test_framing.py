from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from slimq_service.api.v2.framing import decompress, encoding_of, json_length, split
from slimq_service.errors import LimitError, MalformedError, MediaTypeError

COMPRESS = {"gzip": gzip.compress, "deflate": zlib.compress}


def test_an_encoding_is_read_whatever_its_case() -> None:
    assert encoding_of([]) is None
    assert encoding_of([(b"content-encoding", b" Identity ")]) is None
    assert encoding_of([(b"content-encoding", b"GZIP")]) == "gzip"
    assert encoding_of([(b"content-encoding", b"deflate")]) == "deflate"


@pytest.mark.parametrize("value", [b"br", b"zstd", b"gzip, gzip", b"x-gzip2", b"\xff"])
def test_another_encoding_is_refused_by_name(value: bytes) -> None:
    with pytest.raises(MediaTypeError, match="Content-Encoding: expected gzip or deflate"):
        encoding_of([(b"content-encoding", value)])


def test_the_length_of_the_json_is_a_number_of_bytes() -> None:
    name = b"inference-header-content-length"
    assert json_length([]) is None
    assert json_length([(name, b"0")]) == 0
    assert json_length([(name, b"123")]) == 123
    for value in (b"-1", b"", b"1e3", b"1" * 19):
        with pytest.raises(MalformedError, match="Inference-Header-Content-Length"):
            json_length([(name, value)])


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_is_decompressed_up_to_its_limit(encoding: str) -> None:
    compress = COMPRESS[encoding]
    assert decompress(compress(b"abc" * 100), encoding, 300) == b"abc" * 100
    assert decompress(compress(b""), encoding, 1) == b""
    with pytest.raises(LimitError, match="at most 299 bytes"):
        decompress(compress(b"abc" * 100), encoding, 299)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_broken_stream_is_refused(encoding: str) -> None:
    whole = COMPRESS[encoding](b"abc" * 100)
    with pytest.raises(MalformedError, match="cut off"):
        decompress(whole[:-5], encoding, 1000)
    with pytest.raises(MalformedError, match="cut off"):
        decompress(b"", encoding, 1000)
    with pytest.raises(MalformedError, match="received 3 bytes after it"):
        decompress(whole + b"xyz", encoding, 1000)
    with pytest.raises(MalformedError, match=f"compressed with {encoding}"):
        decompress(b"no such thing", encoding, 1000)


def test_a_bomb_is_never_unpacked() -> None:
    bomb = gzip.compress(bytes(200_000_000), compresslevel=9)
    tracemalloc.start()
    try:
        with pytest.raises(LimitError):
            decompress(bomb, "gzip", 1_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


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
