"""Every error that a client can bring about, from a real process, on both interfaces."""

from __future__ import annotations

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from builders import build_repository
from places import ROOT

PAGE = ROOT / "docs" / "service.md"
ACT, INFER = "/v1/policies/tiny/act", "/v2/models/tiny/infer"
MODEL = "/v1/policies/tiny/variants/fp32/model"
JSON, RAW = "application/json", "application/octet-stream"
GOOD = [[0, 0, 0, 0]]
KEY, ADMIN = {"authorization": "Bearer inference"}, {"authorization": "Bearer administration"}
LARGEST = [[3.4e38] * 4]
"""A sum of such numbers is none that a float32 has."""
ELSEWHERE = {
    "forbidden": "PROTOCOL: nothing else asks for the administrator's key",
    "closing": "test_server.py: it takes a signal",
    "cross-site": "middleware/test_cross_site.py: PROTOCOL and streams have it alone",
    "internal": "test_handlers.py: it takes a mistake of ours",
    "service": "oip/test_control.py: it takes a worker that does not do what it is told",
    "layout-changed": "stream/test_session.py: it comes as a message of a stream",
}


@pytest.fixture(scope="module")
def server(process_class: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("errors")
    root = build_repository(folder / "policies")
    model = next((root / "tiny" / "variants" / "other").glob("model-*"))
    model.write_bytes(b"x" * model.stat().st_size)
    variables = {
        "SLIMQ_API_KEY": "inference",
        "SLIMQ_ADMIN_KEY": "administration",
        "SLIMQ_BODY_SECONDS": "0.3",
        "SLIMQ_HEADER_SECONDS": "0.3",
        "SLIMQ_MAX_BATCH": "4",
        "SLIMQ_MAX_BODY_BYTES": "200000",
        "SLIMQ_MAX_HEADER_BYTES": "2000",
        "SLIMQ_MAX_CONNECTIONS": "30",
        "SLIMQ_PINNED": "tiny/fp32",
        "SLIMQ_STREAMS": "0",
        "SLIMQ_INLINE_SECONDS": "0",
        "SLIMQ_ALONE_SECONDS": "0",
        "SLIMQ_INFERENCE_THREADS": "1",
        "SLIMQ_QUEUE_REQUESTS": "4",
        "SLIMQ_QUEUE_SECONDS": "0.0005",
    }
    process = process_class(root, folder / "log", **variables)
    with httpx.Client(timeout=10) as process.client:
        yield process
    process.close()


def act(document: Any, **options: Any) -> dict[str, Any]:
    return {"json": {"observations": document}, **options}


def tensor(shape: list[int], numbers: Any, **more: Any) -> dict[str, Any]:
    entry = {"name": "observations", "shape": shape, "datatype": "FP32", "data": numbers}
    return {"json": {"inputs": [entry | more]}}


REQUESTS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("invalid-input", "POST", ACT, {"json": {"observations": GOOD, "odd": 1}}),
    ("invalid-observation", "POST", ACT, act([[0, 0, 0]])),
    ("over-limit", "POST", ACT, act(GOOD * 5)),
    ("malformed-body", "POST", ACT, {"content": b"{", "headers": {"content-type": JSON}}),
    ("unsupported-media-type", "POST", ACT, {"content": b"x", "headers": {"content-type": "a/b"}}),
    ("conflict", "POST", ACT, act(GOOD, params=[("variant", "fp32"), ("variant", "other")])),
    ("non-finite-q-values", "POST", ACT, act(LARGEST)),
    ("not-found", "POST", "/v1/policies/none/act", act(GOOD)),
    ("repository", "POST", "/v1/policies/tiny/variants/other/act", act(GOOD)),
    ("range-not-satisfiable", "GET", MODEL, {"headers": {"range": "bytes=9999999-"}}),
    ("no-such-path", "GET", "/v1/none", {}),
    ("method-not-allowed", "GET", ACT, {}),
    ("upgrade-required", "GET", "/v1/policies/tiny/stream", {}),
    ("unauthorized", "POST", ACT, act(GOOD, headers={"authorization": "Bearer none"})),
]
PROTOCOL: list[tuple[int, str, str, dict[str, Any]]] = [
    (400, "POST", INFER, {"json": {"inputs": 1}}),
    (400, "POST", INFER, tensor([1, 3], [0, 0, 0])),
    (400, "POST", INFER, tensor([1, 4], [0, 0, 0])),
    (400, "POST", INFER, tensor([1, 4], [0, 0, 0, "x"])),
    (400, "POST", INFER, tensor([1, 4], LARGEST[0])),
    (400, "POST", INFER, tensor([-1, 4], [0, 0, 0, 0])),
    (400, "POST", INFER, tensor([0, 4], [])),
    (400, "POST", INFER, tensor([1, 4], [0] * 4, datatype="BYTES")),
    (400, "POST", INFER, {"content": b"{"}),
    (400, "POST", INFER, {"content": b"x", "headers": {"content-encoding": "gzip"}}),
    (413, "POST", INFER, tensor([5, 4], [0] * 20)),
    (413, "POST", INFER, {"content": b"x" * 200_001}),
    (400, "POST", INFER, {"content": b"x", "headers": {"content-encoding": "br"}}),
    (404, "POST", "/v2/models/none/infer", tensor([1, 4], [0] * 4)),
    (404, "GET", "/v2/models/tiny/versions/none", {}),
    (404, "GET", "/v2/none", {}),
    (405, "GET", INFER, {}),
    (503, "POST", "/v2/models/tiny/versions/other/infer", tensor([1, 4], [0] * 4)),
    (503, "GET", "/v2/models/tiny/versions/other/ready", {}),
    (401, "GET", "/v2/models/tiny", {"headers": {"authorization": "Bearer none"}}),
    (403, "POST", "/v2/repository/models/tiny/unload", {"headers": KEY}),
    (400, "POST", "/v2/repository/models/tiny/unload", {"headers": ADMIN}),
    (403, "POST", "/v2/repository/models/tiny/load", {"headers": {**ADMIN, "origin": "null"}}),
    (404, "POST", "/v2/repository/models/none/load", {"headers": ADMIN}),
    (503, "POST", "/v2/repository/models/tiny/load", {"headers": ADMIN}),
]


def send(server: Any, method: str, path: str, options: dict[str, Any]) -> httpx.Response:
    headers = {**KEY, **options.get("headers", {})}
    return server.client.request(method, server.url + path, **{**options, "headers": headers})


def is_well(server: Any) -> None:
    assert send(server, "POST", ACT, act(GOOD)).status_code == 200


def statuses() -> dict[str, int]:
    """Of every error code, as the page has them."""
    rows = re.findall(r"^\| `([a-z-]+)` \| ([45]\d\d) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    return {code: int(status) for code, status in rows}


@pytest.mark.parametrize(("code", "method", "path", "options"), REQUESTS)
def test_a_request_that_is_wrong(
    server: Any, code: str, method: str, path: str, options: dict[str, Any]
) -> None:
    answer = send(server, method, path, options)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["code"], answer.status_code) == (code, statuses()[code])
    assert problem["status"] == answer.status_code
    assert problem["request_id"] == answer.headers["x-request-id"]
    is_well(server)


@pytest.mark.parametrize(("status", "method", "path", "options"), PROTOCOL)
def test_a_request_of_the_protocol_that_is_wrong(
    server: Any, status: int, method: str, path: str, options: dict[str, Any]
) -> None:
    answer = send(server, method, path, options)
    assert answer.status_code == status, answer.text
    if path.endswith("/ready"):
        return
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"]
    is_well(server)


HEAD = f"POST {ACT} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer inference\r\n".encode()
WIRE = {
    "malformed-request": b"what is this?\r\n\r\n",
    "head-over-limit": HEAD + b"X-Long: " + b"x" * 3000 + b"\r\n\r\n",
    "head-timeout": HEAD,
    "unsupported-transfer-coding": HEAD
    + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "body-timeout": HEAD + b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
}


@pytest.mark.parametrize("code", WIRE)
def test_what_is_wrong_on_the_wire(server: Any, code: str) -> None:
    with server.connect() as connection:
        connection.sendall(WIRE[code])
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 %d " % statuses()[code])
    assert b'"code":"%b"' % code.encode() in answer
    is_well(server)


def overwhelm(server: Any, path: str, options: dict[str, Any]) -> list[httpx.Response]:
    """The answers to more requests at once than wait, or are computed in time."""
    with ThreadPoolExecutor(16) as threads:
        return list(threads.map(lambda _: send(server, "POST", path, options), range(96)))


def test_more_than_can_wait_and_longer_than_may_be_waited(server: Any) -> None:
    frames = np.zeros((4, 4, 84, 84), np.uint8).tobytes()
    options = {"content": frames, "headers": {"content-type": RAW}}
    answers = overwhelm(server, "/v1/policies/tiny_frames/act", options)
    found = {answer.json().get("code"): answer for answer in answers}
    assert set(found) <= {None, "overloaded", "deadline"}
    for code, answer in found.items():
        if code is not None:
            assert answer.status_code == statuses()[code]
            assert int(answer.headers["retry-after"]) >= 1
    assert {"overloaded", "deadline"} & set(found)
    head = {"inference-header-content-length": "0"}
    answers = overwhelm(server, "/v2/models/tiny_frames/infer", {**options, "headers": head})
    assert {answer.status_code for answer in answers} <= {200, 503}
    is_well(server)


def test_more_connections_than_are_taken(server: Any) -> None:
    held: list[socket.socket] = []
    try:
        held.extend(server.connect() for _ in range(30))
        with server.connect() as connection:
            answer = connection.recv(65_536)
    finally:
        for connection in held:
            connection.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"too-many-connections"' in answer
    assert b"retry-after: " in answer


def test_no_error_is_left_out() -> None:
    tried = {code for code, *_ in REQUESTS} | set(WIRE) | set(ELSEWHERE)
    tried |= {"overloaded", "deadline", "too-many-connections"}
    assert tried == set(statuses())
