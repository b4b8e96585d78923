"""Clients that close their side of the connection and read the responses, on a real process."""

from __future__ import annotations

import socket
import time
from typing import Any

import httpx
import numpy as np
import pytest

from waiting import until
from wire import receive_all

BODY = b'{"observations": [[0, 0, 0, 0]]}'
ACT = (
    b"POST /v1/policies/tiny/act HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)
COMPARE = ACT.replace(b"/act ", b"/compare ")
GET = b"GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n"
MISSING = b"GET /none HTTP/1.1\r\nHost: test\r\n\r\n"
FRAMES = np.zeros((32, 4, 84, 84), np.uint8).tobytes()
FRAMES_ACT = (
    b"POST /v1/policies/tiny_frames/act HTTP/1.1\r\nHost: test\r\n"
    b"Content-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n%s"
    % (len(FRAMES), FRAMES)
)
OK = b"HTTP/1.1 200 OK"


@pytest.fixture(scope="module")
def threaded(launch_once: Any) -> Any:
    """A process that runs every model in its one thread."""
    return launch_once(
        SLIMQ_INLINE_SECONDS="0", SLIMQ_ALONE_SECONDS="0", SLIMQ_INFERENCE_THREADS="1"
    )


def half_close(server: Any, *parts: bytes) -> bytes:
    """What is received after the last part was sent and the client's side was closed."""
    with server.connect() as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.05)
        connection.shutdown(socket.SHUT_WR)
        return receive_all(connection)


@pytest.mark.parametrize("count", [1, 2, 7, 60])
@pytest.mark.parametrize("request_", [ACT, COMPARE, GET, MISSING], ids=lambda r: r[:25].decode())
def test_every_request_is_answered(server: Any, request_: bytes, count: int) -> None:
    with server.connect() as connection:
        connection.sendall(request_ * count)
        connection.shutdown(socket.SHUT_WR)
        answer = receive_all(connection)
    assert answer.count(b"HTTP/1.1 404" if request_ is MISSING else OK) == count


def test_requests_of_every_kind_are_answered_in_order(server: Any) -> None:
    answer = half_close(server, ACT + GET + MISSING + COMPARE)
    starts = (b'"q_values"', b'"ready"', b'"no-such-path"', b'"reference"')
    assert answer.count(b"HTTP/1.1 ") == 4
    assert sorted(map(answer.index, starts)) == [answer.index(start) for start in starts]


@pytest.mark.parametrize("count", [1, 2, 20])
def test_those_that_wait_for_a_thread_are_answered(threaded: Any, count: int) -> None:
    with threaded.connect() as connection:
        connection.sendall(FRAMES_ACT * count)
        connection.shutdown(socket.SHUT_WR)
        assert receive_all(connection).count(OK) == count


def test_a_client_that_waits_long_before_it_reads_gets_the_whole_response(server: Any) -> None:
    page = b"GET /openapi.json HTTP/1.1\r\nHost: test\r\n\r\n"
    with server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.sendall(page * 60)
        connection.shutdown(socket.SHUT_WR)
        time.sleep(0.5)
        assert receive_all(connection).count(OK) == 60


@pytest.mark.parametrize("rest", [ACT[:-1], ACT[:40], b"\r\n"], ids=["body", "head", "line"])
def test_those_before_an_incomplete_one_are_answered(server: Any, rest: bytes) -> None:
    for parts in ([ACT * 3 + rest], [ACT * 3, rest]):
        answer = half_close(server, *parts)
        assert (answer.count(OK), answer.count(b"HTTP/1.1 ")) == (3, 3)


def test_an_idle_or_incomplete_connection_is_closed_at_once(server: Any) -> None:
    for parts in ([], [ACT[:-1]], [ACT[:40]]):
        started = time.monotonic()
        assert half_close(server, *parts) == b""
        assert time.monotonic() - started < 0.8


def test_a_connection_that_was_refused_ends_with_its_client(launch_once: Any) -> None:
    server = launch_once(SLIMQ_MAX_CONNECTIONS="2")
    head = ACT.partition(b"\r\n\r\n")[0].replace(
        b"Content-Length: 32", b"Transfer-Encoding: chunked"
    )
    for _ in range(8):
        for part in (b"zz\r\n", b"2\r\n{}\r\nzz\r\n"):
            assert half_close(server, head + b"\r\n\r\n" + part).startswith(b"HTTP/1.1 400 ")


def test_no_connection_and_no_request_is_left_behind(server: Any) -> None:
    for request_ in (ACT, ACT * 5, ACT[:-1], ACT * 2 + ACT[:-1]):
        connection = server.connect()
        connection.sendall(request_)
        connection.close()

    def is_clean() -> bool:
        text = httpx.get(server.url + "/metrics").text
        return "slimq_requests_in_flight 0.0" in text

    until(is_clean, 5)
    assert "Traceback" not in server.log.read_text()
    assert "ASGI callable" not in server.log.read_text()
