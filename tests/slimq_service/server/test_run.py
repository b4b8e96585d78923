"""What depends on a real process: signals, limits on the wire, slow and cut-off clients."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from places import POLICIES
from slimq.core.errors import InvalidInputError, RepositoryError
from slimq_service.app import create_app
from slimq_service.server.run import make_config
from slimq_service.server.serve import serve
from slimq_service.server.sockets import bind, url_of
from slimq_service.server.uvicorn_adapter.websocket import WebSocketConnection
from slimq_service.settings import Settings
from waiting import until
from wire import receive_all

RAW = "application/octet-stream"
BODY = b'{"observations": [[0, 0, 0, 0]]}'


def head(length: int | None, close: bool = True) -> bytes:
    lines = ["POST /v1/policies/tiny/act HTTP/1.1", "Host: test", "Content-Type: application/json"]
    lines.append(
        f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"
    )
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode()


def problem_of(answer: bytes) -> Any:
    headers, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in headers, answer
    return json.loads(body)


def alive(server: Any) -> None:
    answer = httpx.post(
        server.url + "/v1/policies/tiny/act",
        content=BODY,
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 200
    assert server.process.poll() is None


def test_an_announced_body_over_the_limit_is_refused_before_it_is_sent(server: Any) -> None:
    with server.connect() as connection:
        connection.sendall(head(10**9))
        problem = problem_of(receive_all(connection))
    assert (problem["status"], problem["limit"]) == (413, 200_000)
    assert problem["received"] == "1000000000 bytes"
    alive(server)


def test_a_chunked_body_over_the_limit_is_cut_off(server: Any) -> None:
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    with server.connect() as connection:
        connection.sendall(head(None))
        for _ in range(80):
            connection.sendall(chunk)
        problem = problem_of(receive_all(connection))
    assert (problem["status"], problem["code"]) == (413, "over-limit")
    alive(server)


def test_a_client_library_sees_the_refusal_of_a_large_body(server: Any) -> None:
    answer = httpx.post(
        server.url + "/v1/policies/tiny/act",
        content=bytes(3_000_000),
        headers={"content-type": "application/octet-stream"},
    )
    assert answer.status_code == 413
    assert answer.json()["limit"] == 200_000


def test_a_body_that_stops_arriving_is_given_up(server: Any) -> None:
    with server.connect() as connection:
        connection.sendall(head(len(BODY), close=False) + BODY[:10])
        problem = problem_of(receive_all(connection))
    assert (problem["status"], problem["code"]) == (408, "body-timeout")
    alive(server)


def test_a_client_that_goes_away_harms_nobody(server: Any) -> None:
    for _ in range(5):
        with server.connect() as connection:
            connection.sendall(head(len(BODY)) + BODY[:10])
    alive(server)
    line = 'code="client-gone",policy="tiny",variant="fp32"} 5.0'
    until(lambda: line in httpx.get(server.url + "/metrics").text, 5)


def test_a_connection_outlives_a_refused_request(server: Any) -> None:
    path = "/v1/policies/tiny/act"
    with httpx.Client(base_url=server.url) as client:
        for _ in range(3):
            assert client.post(path, content=b"{").status_code == 415
            assert client.post("/v1/policies/none/act", content=BODY).status_code == 404
            assert client.post(path, json={"observations": [[0] * 4]}).status_code == 200
    alive(server)


def test_the_fast_loop_and_parser_are_used() -> None:
    config = make_config(lambda: None, Settings(), str)
    config.load()
    assert issubclass(config.http_protocol_class, HttpToolsProtocol)
    assert "uvloop" in config.get_loop_factory().__module__


def test_streams_go_through_the_protocol_that_has_their_limits() -> None:
    config = make_config(lambda: None, Settings(stream_message_bytes=1000), str)
    config.load()
    assert config.ws_protocol_class is WebSocketConnection
    assert (config.ws_max_size, config.ws_per_message_deflate) == (1000, False)
    assert config.ws_ping_interval < 60 <= config.ws_ping_timeout


def test_json_and_raw_bytes_are_answered_alike(server: Any) -> None:
    observations = np.ones((2, 4), np.float32)
    path = f"{server.url}/v1/policies/tiny/act"
    raw = httpx.post(
        path,
        content=observations.tobytes(),
        headers={"content-type": "application/octet-stream"},
    )
    assert raw.json() == httpx.post(path, json={"observations": observations.tolist()}).json()
    assert "server" not in raw.headers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_under_way_finish(
    tiny_repository: Path, tmp_path: Path, launch: Any, number: int
) -> None:
    process = launch(tiny_repository, tmp_path / "log")
    with process.connect() as connection:
        connection.sendall(head(len(BODY), close=False) + BODY[:10])
        time.sleep(0.3)
        process.process.send_signal(number)
        time.sleep(0.3)
        assert process.process.poll() is None, "it must wait for the request"
        with pytest.raises(OSError, match="refused"):
            process.connect()
        connection.sendall(BODY[10:])
        answer = receive_all(connection)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert process.process.wait(10) == 0
    lines = process.log.read_text().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert "variant loaded" in events


def test_an_address_in_use_is_refused_by_name() -> None:
    taken = bind("127.0.0.1", 0)
    try:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidInputError, match=f"127.0.0.1:{port}"):
            bind("127.0.0.1", port)
        with pytest.raises(InvalidInputError, match=r"no\.such\.host"):
            bind("no.such.host.invalid", 0)
        with pytest.raises(InvalidInputError, match=r"a\.\.b:0"):
            bind("a..b", 0)
    finally:
        taken.close()


def test_urls_of_both_families() -> None:
    with bind("127.0.0.1", 0) as bound:
        assert url_of(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_a_missing_directory_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no such folder; give one with --policies"):
        serve(Settings(policies=tmp_path / "none"), announce=lambda *_: None)


@pytest.fixture
def signals() -> Iterator[None]:
    """Puts the handlers of signals back that `serve` replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_a_start_that_fails_is_no_success(
    tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lifespan(_: FastAPI) -> Any:
        raise ZeroDivisionError

    app = dataclasses.replace(
        create_app(Settings(policies=tiny_repository)), asgi=FastAPI(lifespan=lifespan)
    )
    monkeypatch.setattr("slimq_service.server.serve.create_app", lambda _, **_others: app)
    with pytest.raises(SystemExit) as ended:
        serve(Settings(policies=tiny_repository, port=0), announce=lambda *_: None)
    assert ended.value.code == 3


@pytest.mark.usefixtures("signals")
def test_a_server_that_returns_without_having_started_is_no_success(
    tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As older versions of uvicorn do where the lifespan fails."""
    monkeypatch.setattr("uvicorn.Server.run", lambda _, sockets: sockets)
    monkeypatch.setattr("uvicorn.Server.started", False, raising=False)
    with pytest.raises(SystemExit) as ended:
        serve(Settings(policies=tiny_repository, port=0), announce=lambda *_: None)
    assert ended.value.code == 3


def test_what_a_client_does_not_wait_for_is_not_computed(launch: Any, tmp_path: Path) -> None:
    """The requests before it take long enough that it still waits when it goes."""
    variables = {"SLIMQ_INLINE_SECONDS": "0", "SLIMQ_ALONE_SECONDS": "0"}
    variables["SLIMQ_INFERENCE_THREADS"] = "1"
    server = launch(POLICIES, tmp_path / "log", **variables)
    path, body = "/v1/policies/pong/variants/fp32/act", bytes(128 * 4 * 84 * 84)
    lines = [f"POST {path} HTTP/1.1", "Host: test", "Content-Type: application/octet-stream"]
    request = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
    single = {"content": body[: 4 * 84 * 84], "headers": {"content-type": RAW}}
    assert httpx.post(server.url + path, timeout=60, **single).is_success
    patient = [server.connect() for _ in range(6)]
    for connection in patient:
        connection.settimeout(60)
        connection.sendall(request)
    with server.connect() as connection:
        connection.sendall(request)
    for connection in patient:
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
        connection.close()
    labels = 'policy="pong",variant="fp32"'
    rows = httpx.get(server.url + "/metrics").text.splitlines()
    assert f'slimq_errors_total{{code="client-gone",{labels}}} 1.0' in rows
    assert f"slimq_batch_observations_sum{{{labels}}} {1.0 + 6 * 128}" in rows
    assert "slimq_queue_depth 0.0" in rows
