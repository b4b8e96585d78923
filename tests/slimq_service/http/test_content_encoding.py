from __future__ import annotations

import gzip
import os
import time
import tracemalloc
import zlib
from typing import Any

import httpx
import numpy as np
import pytest

from slimq_service.errors import LimitError, MalformedError, MediaTypeError
from slimq_service.http.content_encoding import MAX_MEMBERS, PIECE_BYTES, decompress, encoding_of

COMPRESS = {"gzip": gzip.compress, "deflate": zlib.compress}
JSON, RAW = {"content-type": "application/json"}, {"content-type": "application/octet-stream"}
ACT, COMPARE, INFER = "/v1/policies/tiny/act", "/v1/policies/tiny/compare", "/v2/models/tiny/infer"
OBSERVATIONS = b'{"observations": [[0.01, -0.02, 0.03, 0.04]]}'
TENSOR = b'{"name": "observations", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0, 1]}'
INPUTS = b'{"inputs": [%b]}' % TENSOR


@pytest.mark.parametrize(
    ("values", "encoding"),
    [
        ([], None),
        ([b""], None),
        ([b" Identity "], None),
        ([b"GZIP"], "gzip"),
        ([b"X-Gzip"], "gzip"),
        ([b"deflate"], "deflate"),
    ],
)
def test_an_encoding_is_read_whatever_its_case(values: list[bytes], encoding: str | None) -> None:
    assert encoding_of([(b"content-encoding", value) for value in values]) == encoding


@pytest.mark.parametrize(
    "values", [[b"br"], [b"zstd"], [b"gzip, gzip"], [b"gzip", b"gzip"], [b"x-gzip2"], [b"\xff"]]
)
def test_another_encoding_or_two_are_refused_by_name(values: list[bytes]) -> None:
    with pytest.raises(MediaTypeError, match="Content-Encoding: expected gzip or deflate"):
        encoding_of([(b"content-encoding", value) for value in values])


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_is_decompressed_up_to_its_limit(encoding: str) -> None:
    compress = COMPRESS[encoding]
    assert decompress(compress(b"abc" * 100), encoding, 300) == b"abc" * 100
    assert decompress(compress(b""), encoding, 1) == b""
    with pytest.raises(LimitError, match="at most 299 bytes"):
        decompress(compress(b"abc" * 100), encoding, 299)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_of_many_pieces_is_decompressed_whole(encoding: str) -> None:
    content = os.urandom(3 * PIECE_BYTES + 7)
    assert decompress(COMPRESS[encoding](content), encoding, len(content)) == content


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_broken_stream_is_refused(encoding: str) -> None:
    whole = COMPRESS[encoding](b"abc" * 100)
    for start in (b"", whole[:1], whole[:-1], whole[:-5]):
        with pytest.raises(
            MalformedError, match=f"a complete {encoding} stream, received a truncated"
        ):
            decompress(start, encoding, 1000)
    with pytest.raises(MalformedError, match=f"compressed with {encoding}"):
        decompress(b"no such thing", encoding, 1000)


def test_nothing_follows_a_zlib_stream() -> None:
    content = os.urandom(2 * PIECE_BYTES)
    with pytest.raises(MalformedError, match="one deflate stream, received 3 bytes after it"):
        decompress(zlib.compress(content) + b"xyz", "deflate", 2 * len(content))
    with pytest.raises(MalformedError, match="received 200003 bytes after it"):
        decompress(zlib.compress(b"abc") + bytes(200_003), "deflate", 1000)


def test_gzip_members_in_a_row_are_one_body() -> None:
    parts = [os.urandom(2 * PIECE_BYTES), b"", b"abc", os.urandom(10)]
    whole = b"".join(map(gzip.compress, parts))
    length = sum(map(len, parts))
    assert decompress(whole, "gzip", length) == b"".join(parts)
    with pytest.raises(LimitError, match=f"at most {length - 1} bytes"):
        decompress(whole, "gzip", length - 1)
    with pytest.raises(MalformedError, match="a complete gzip stream, received a truncated one"):
        decompress(whole[:-1], "gzip", length)
    with pytest.raises(MalformedError, match="after 4 complete gzip members"):
        decompress(whole + b"xyz", "gzip", length)


def test_the_number_of_members_is_limited_and_so_is_their_cost() -> None:
    member = gzip.compress(b"")
    assert decompress(member * MAX_MEMBERS, "gzip", 1) == b""
    began = time.process_time()
    with pytest.raises(LimitError, match=f"at most {MAX_MEMBERS} gzip members, received more"):
        decompress(member * 400_000, "gzip", 1)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("members", [1, 20])
def test_a_bomb_is_never_unpacked(members: int) -> None:
    bomb = gzip.compress(bytes(200_000_000 // members), compresslevel=9) * members
    tracemalloc.start()
    try:
        with pytest.raises(LimitError):
            decompress(bomb, "gzip", 1_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


def ask(server: Any, path: str, body: bytes, encoding: str, **headers: str) -> httpx.Response:
    sent = {"content-encoding": encoding, **headers}
    return httpx.post(server.url + path, content=body, headers=sent, timeout=10)


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate"])
@pytest.mark.parametrize(
    ("path", "body"), [(ACT, OBSERVATIONS), (COMPARE, OBSERVATIONS), (INFER, INPUTS)]
)
def test_every_endpoint_takes_a_compressed_body(
    server: Any, path: str, body: bytes, encoding: str
) -> None:
    plain = httpx.post(server.url + path, content=body, headers=JSON)
    assert plain.status_code == 200
    packed = COMPRESS[encoding.removeprefix("x-")](body)
    answer = ask(server, path, packed, encoding, **JSON)
    assert answer.status_code == 200, answer.text
    for name in ("q_values", "outputs"):
        assert answer.json().get(name) == plain.json().get(name)


def test_raw_bytes_and_members_are_decompressed_too(server: Any) -> None:
    rows = np.float32([[1, 2, 3, 4], [5, 6, 7, 8]])
    packed = b"".join(gzip.compress(row.tobytes()) for row in rows)
    answer = ask(server, ACT, packed, "gzip", **RAW)
    plain = httpx.post(server.url + ACT, content=rows.tobytes(), headers=RAW)
    assert answer.json() == plain.json()
    load = ask(server, "/v2/repository/models/tiny/load", gzip.compress(b"{}"), "gzip")
    assert load.status_code == 200, load.text


@pytest.mark.parametrize("path", [ACT, COMPARE])
def test_a_compressed_body_that_is_wrong_is_a_problem(server: Any, path: str) -> None:
    """The server's limit is 200,000 bytes."""
    packed = gzip.compress(OBSERVATIONS)
    for body, status, code, received in (
        (packed[:-1], 400, "malformed-body", "a truncated one"),
        (packed + b"x", 400, "malformed-body", "a truncated one"),
        (packed + b"xy", 400, "malformed-body", "after 1 complete gzip members"),
        (OBSERVATIONS, 400, "malformed-body", "incorrect header check"),
        (gzip.compress(bytes(200_001)), 413, "over-limit", "more than that once decompressed"),
        (gzip.compress(b"{"), 400, "malformed-body", "unexpected end"),
    ):
        answer = ask(server, path, body, "gzip", **JSON)
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (status, code), problem
        assert received in problem["received"]
    answer = ask(server, path, packed, "br", **JSON)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media-type")
    assert httpx.post(server.url + path, content=OBSERVATIONS, headers=JSON).status_code == 200


def test_the_encoding_is_in_the_document_of_the_interface(server: Any) -> None:
    paths = httpx.get(server.url + "/openapi.json").json()["paths"]
    for path in (ACT, COMPARE, INFER):
        operation = paths[path.replace("tiny", "{model}" if "v2" in path else "{policy}")]["post"]
        (found,) = (p for p in operation["parameters"] if p["name"] == "Content-Encoding")
        assert found["schema"]["enum"] == ["gzip", "deflate", "x-gzip"]
