"""Heads that are too long or too slow, and clients that are too many, against a real process."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from slimq_service.inference.arrivals import Arrivals
from slimq_service.server.http_protocol import MAX_PIPELINED, WireLimits, make_protocol
from wire import receive_all

LIMIT = 2000
SECONDS = 1.0
CONNECTIONS = 20
GET = b"GET /healthz HTTP/1.1\r\nHost: test\r\n"
BODY = b'{"observations": [[0, 0, 0, 0]]}'
ACT = (
    b"POST /v1/policies/tiny/act HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)
CHUNKED = (
    b"POST /v1/policies/tiny/act HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(BODY), BODY)
)


@pytest.fixture(scope="module")
def bounded(launch_once: Any) -> Any:
    """A process with limits that are soon reached."""
    return launch_once(
        SLIMQ_MAX_HEADER_BYTES=str(LIMIT),
        SLIMQ_HEADER_SECONDS=str(SECONDS),
        SLIMQ_SEND_SECONDS="1",
        SLIMQ_MAX_CONNECTIONS=str(CONNECTIONS),
        SLIMQ_BODY_SECONDS="2",
    )


def receive_one(connection: socket.socket) -> int:
    """Reads one whole answer; says its status."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65_536)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
    while len(body) < int(length.split()[-1]):
        body += connection.recv(65_536)
    return int(head.split()[1])


def problem_of(answer: bytes, status: int) -> Any:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert b"application/problem+json" in head, answer
    assert b"connection: close" in head, answer
    problem = json.loads(body)
    assert problem["status"] == status
    assert f"\r\nx-request-id: {problem['request_id']}\r\n".encode() in head
    return problem


def counted(server: Any, code: str) -> float:
    rows = httpx.get(server.url + "/metrics").text.splitlines()
    (row,) = [row for row in rows if row.startswith(f'slimq_http_errors_total{{code="{code}"}}')]
    return float(row.split()[-1])


def alive(server: Any) -> None:
    with server.connect() as connection:
        connection.sendall(ACT)
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
    assert server.process.poll() is None


@pytest.mark.parametrize("pieces", [1, 7, 3000])
def test_one_header_value_over_the_limit_is_refused_however_it_arrives(
    bounded: Any, pieces: int
) -> None:
    content = GET + b"X-Long: " + b"x" * (LIMIT + 1000) + b"\r\n\r\n"
    step = len(content) // pieces + 1
    with bounded.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for start in range(0, len(content), step):
                connection.sendall(content[start : start + step])
        except OSError:  # it need not wait for all of it
            pass
        problem = problem_of(receive_all(connection), 431)
    assert (problem["code"], problem["limit"]) == ("head-over-limit", LIMIT)
    assert problem["received"].removeprefix("at least ").split()[0].isdigit()
    alive(bounded)


def test_a_header_that_never_ends_is_refused_before_it_does(bounded: Any) -> None:
    before = counted(bounded, "head-over-limit")
    with bounded.connect() as connection:
        connection.sendall(GET + b"X-Long: " + b"x" * LIMIT)
        problem_of(receive_all(connection), 431)
    assert counted(bounded, "head-over-limit") == before + 1
    alive(bounded)


def test_many_headers_over_the_limit_are_refused_as_one_is(bounded: Any) -> None:
    with bounded.connect() as connection:
        connection.sendall(GET + b"A: b\r\n" * (LIMIT // 6 + 1) + b"\r\n")
        problem_of(receive_all(connection), 431)
    with bounded.connect() as connection:
        connection.sendall(b"GET /" + b"x" * LIMIT + b" HTTP/1.1\r\nHost: test\r\n\r\n")
        problem_of(receive_all(connection), 431)
    alive(bounded)


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_a_head_that_asks_for_an_upgrade_has_the_same_limit(bounded: Any, protocol: str) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: %s\r\nX-Long: " % protocol.encode()
    with bounded.connect() as connection:
        connection.sendall(GET + upgrade + b"x" * LIMIT + b"\r\n\r\n")
        problem_of(receive_all(connection), 431)
    with bounded.connect() as connection:
        connection.sendall(GET + upgrade + b"x")
        problem_of(receive_all(connection), 408)
    alive(bounded)


def test_a_head_just_within_the_limit_is_read(bounded: Any) -> None:
    rest = LIMIT - len(GET) - len(b"X-Long: \r\n\r\n")
    for spare, status in ((0, b"200"), (-1, b"431")):
        with bounded.connect() as connection:
            connection.sendall(GET + b"X-Long: " + b"x" * (rest - spare) + b"\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 " + status


def test_a_head_that_stops_arriving_is_answered_in_time(bounded: Any) -> None:
    started = time.monotonic()
    with bounded.connect() as connection:
        connection.sendall(GET)
        problem = problem_of(receive_all(connection), 408)
    assert problem["code"] == "head-timeout"
    assert 0.5 * SECONDS < time.monotonic() - started < 5 * SECONDS
    alive(bounded)


def drip(connection: socket.socket, content: bytes, seconds: float) -> None:
    """Sends a byte now and then, until the other side has had enough."""
    end = time.monotonic() + seconds
    for byte in content:
        try:
            connection.sendall(bytes([byte]))
        except OSError:
            return
        connection.settimeout(0.1)
        try:
            if not connection.recv(1, socket.MSG_PEEK):
                return
        except TimeoutError:
            pass
        except OSError:
            return
        else:
            return
        finally:
            connection.settimeout(10)
        assert time.monotonic() < end, "it was let go on"


@pytest.mark.parametrize("before", [b"", ACT], ids=["first request", "later request"])
def test_bytes_now_and_then_do_not_hold_a_connection(bounded: Any, before: bytes) -> None:
    with bounded.connect() as connection:
        if before:
            connection.sendall(before)
            assert receive_one(connection) == 200
        drip(connection, GET + b"X-Slow: " + b"x" * 1000, 6 * SECONDS)
        problem_of(receive_all(connection), 408)


def test_a_connection_that_sends_nothing_is_closed_without_a_word(bounded: Any) -> None:
    started = time.monotonic()
    with bounded.connect() as connection:
        assert receive_all(connection) == b""
    assert time.monotonic() - started < 5 * SECONDS


def test_empty_lines_and_a_body_that_nobody_needs_do_not_hold_a_connection(bounded: Any) -> None:
    with bounded.connect() as connection:
        connection.sendall(ACT)
        assert receive_one(connection) == 200
        drip(connection, b"\r\n" * 1000, 6 * SECONDS)
        assert receive_all(connection) == b""
    with bounded.connect() as connection:
        connection.sendall(b"POST /none HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n")
        assert receive_one(connection) == 404
        drip(connection, b"x" * 1000, 6 * SECONDS)
        assert receive_all(connection) == b""


def test_a_malformed_body_is_refused_at_once_and_is_no_mistake_of_the_service(bounded: Any) -> None:
    head = CHUNKED.partition(b"\r\n\r\n")[0]
    for expect in (b"", b"\r\nExpect: 100-continue"):
        for body in (b"zz\r\n", b"2\r\n{}\r\nzz\r\n"):
            started = time.monotonic()
            with bounded.connect() as connection:
                connection.sendall(head + expect + b"\r\n\r\n" + body)
                problem_of(receive_all(connection), 400)
            assert time.monotonic() - started < 1
    text = httpx.get(bounded.url + "/metrics").text
    assert 'slimq_errors_total{code="internal",policy="tiny",variant="fp32"} 0.0' in text
    assert "slimq_requests_in_flight 0.0" in text


def test_an_error_is_counted_when_its_client_has_read_it(bounded: Any) -> None:
    """And not only when the rest of the body has been waited for."""
    head = ACT.partition(b"\r\n\r\n")[0].replace(b"Content-Length: ", b"Content-Length: 99999999")
    with bounded.connect() as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert receive_one(connection) == 413
        text = httpx.get(bounded.url + "/metrics").text
    assert 'slimq_errors_total{code="over-limit",policy="tiny",variant="fp32"} 1.0' in text
    assert "slimq_requests_in_flight 0.0" in text


def test_an_idle_connection_is_kept_for_a_time_whatever_came_before(
    launch: Any, tiny_repository: Path, tmp_path: Path
) -> None:
    limits = {"SLIMQ_KEEP_ALIVE_SECONDS": "1", "SLIMQ_HEADER_SECONDS": "4"}
    server = launch(tiny_repository, tmp_path / "log", **limits)

    def seconds_open(*parts: bytes) -> float:
        with server.connect() as connection:
            for part in parts:
                connection.sendall(part)
                time.sleep(0.5)
            started = time.monotonic()
            received = receive_all(connection)
            assert received.startswith(b"HTTP/1.1 ")
            return time.monotonic() - started

    late = b"POST /none HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\n"
    assert 0.2 < seconds_open(ACT) < 2
    assert 0.2 < seconds_open(ACT, ACT, ACT) < 2
    assert 0.2 < seconds_open(late, b"1234") < 2, "its body came after the response"
    assert 2 < seconds_open(ACT + b"GET /heal") < 5, "a head has begun"


def test_requests_in_one_piece_are_answered_though_together_they_are_long(bounded: Any) -> None:
    count = 2 * LIMIT // len(ACT) + 2
    with bounded.connect() as connection:
        connection.sendall(ACT * count + GET + b"Connection: close\r\n\r\n")
        assert receive_all(connection).count(b"HTTP/1.1 200 OK") == count + 1


def test_what_was_asked_before_is_answered_before_a_long_head_ends_the_connection(
    bounded: Any,
) -> None:
    before = counted(bounded, "head-over-limit")
    for rest in (b"x" * LIMIT, b"x" * LIMIT + b"\r\n\r\n"):
        with bounded.connect() as connection:
            connection.sendall(ACT + GET + b"X-Long: " + rest)
            answer = receive_all(connection)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.count(b"HTTP/1.1") == 1 or b"HTTP/1.1 4" in answer
    assert counted(bounded, "head-over-limit") == before + 1
    alive(bounded)


def test_what_is_no_http_is_a_problem_too(bounded: Any) -> None:
    before = counted(bounded, "malformed-request")
    for content in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/2.0\r\nHost: test\r\n\r\n",
        b"GET /healthz HTTP/0.9\r\nHost: test\r\n\r\n",
    ):
        with bounded.connect() as connection:
            connection.sendall(content)
            problem = problem_of(receive_all(connection), 400)
        assert problem["code"] == "malformed-request"
    assert counted(bounded, "malformed-request") == before + 4
    alive(bounded)


def test_trailers_of_a_chunked_body_are_dropped_and_bounded(bounded: Any) -> None:
    with bounded.connect() as connection:
        connection.sendall(CHUNKED + b"0\r\nX-Trailer: x\r\nContent-Type: text/plain\r\n\r\n")
        assert receive_one(connection) == 200
        connection.sendall(CHUNKED + b"0\r\nX-Trailer: ")
        time.sleep(0.2)
        connection.sendall(b"x" * (LIMIT + 1))
        problem = problem_of(receive_all(connection), 431)
    assert problem["code"] == "head-over-limit"
    alive(bounded)


def test_a_body_in_broken_chunks_is_answered_at_once(bounded: Any) -> None:
    with bounded.connect() as connection:
        connection.sendall(CHUNKED)
        time.sleep(0.2)
        started = time.monotonic()
        connection.sendall(b"no chunk\r\n")
        problem_of(receive_all(connection), 400)
    assert time.monotonic() - started < 1.5
    alive(bounded)


def test_chunks_that_nobody_needs_are_cut_off_without_another_answer(bounded: Any) -> None:
    for rest in (b"no chunk\r\n", b"5\r\nabcde\r\n" * LIMIT):
        with bounded.connect() as connection:
            connection.sendall(CHUNKED.replace(b"tiny/act", b"tiny/none"))
            assert receive_one(connection) == 404
            connection.sendall(rest)
            assert receive_all(connection) == b""
    alive(bounded)


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"identity, chunked", b"x,chunked"])
def test_a_body_in_a_transfer_coding_below_chunked_is_refused(bounded: Any, coding: bytes) -> None:
    before = counted(bounded, "unsupported-transfer-coding")
    head = CHUNKED.replace(b"Encoding: chunked", b"Encoding: " + coding)
    with bounded.connect() as connection:
        connection.sendall(head + b"0\r\n\r\n" + GET + b"\r\n")
        problem = problem_of(receive_all(connection), 501)
    assert problem["code"] == "unsupported-transfer-coding"
    assert counted(bounded, "unsupported-transfer-coding") == before + 1
    with bounded.connect() as connection:
        connection.sendall(CHUNKED.replace(b": chunked", b": Chunked ") + b"0\r\n\r\n")
        assert receive_one(connection) == 200


def test_a_large_body_in_many_pieces_is_no_long_head(bounded: Any) -> None:
    for _ in range(2):
        answer = httpx.post(
            bounded.url + "/v1/policies/tiny_frames/act",
            content=iter([bytes(4 * 84 * 84)] * 8),
            headers={"content-type": "application/octet-stream"},
        )
        assert answer.status_code == 200, answer.text


def test_one_connection_too_many_is_told_so_and_the_others_go_on(bounded: Any) -> None:
    before = counted(bounded, "too-many-connections")
    held = []
    for _ in range(CONNECTIONS):
        connection = bounded.connect()
        connection.sendall(ACT)
        assert receive_one(connection) == 200
        held.append(connection)
    with bounded.connect() as connection:
        connection.sendall(ACT)
        answer = receive_all(connection)
    problem = problem_of(answer, 503)
    assert (problem["code"], problem["limit"]) == ("too-many-connections", CONNECTIONS)
    assert b"\r\nretry-after: 1\r\n" in answer
    with pytest.raises(httpx.HTTPStatusError, match="503"):
        httpx.get(bounded.url + "/healthz").raise_for_status()
    for connection in held:
        connection.sendall(ACT)
        assert receive_one(connection) == 200
        connection.close()
    time.sleep(0.2)
    assert counted(bounded, "too-many-connections") == before + 2


def test_far_too_many_connections_are_closed_without_a_word(bounded: Any) -> None:
    flood = [bounded.connect() for _ in range(CONNECTIONS + 80)]
    time.sleep(0.5)
    for connection in flood:
        connection.close()
    time.sleep(1.5)
    alive(bounded)


def test_more_requests_at_once_than_are_kept_end_the_connection(bounded: Any) -> None:
    before = counted(bounded, "malformed-request")
    with bounded.connect() as connection:
        connection.sendall(ACT * (MAX_PIPELINED + 10))
        answer = receive_all(connection)
    assert 1 <= answer.count(b"HTTP/1.1 200 OK") <= MAX_PIPELINED + 1
    assert counted(bounded, "malformed-request") == before + 1
    alive(bounded)


def test_a_client_that_never_reads_is_cut_off(bounded: Any) -> None:
    """Its requests are small, and their answers more than the sockets' buffers take."""
    request = b"GET /openapi.json HTTP/1.1\r\nHost: test\r\n\r\n"
    with bounded.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(400):
            try:
                connection.sendall(request * 20)
            except ConnectionError:
                break
            time.sleep(0.05)
        else:
            pytest.fail("it was let go on")
    alive(bounded)


class Transport(asyncio.Transport):
    """One that only remembers whether it was closed."""

    ended = ""

    def write(self, data: Any) -> None:
        pass

    writelines = write

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"


def on_a_connection(work: Any) -> None:
    """Runs `work(protocol, transport)` on a connection that exists in memory alone."""

    codes: list[str] = []

    def refused(code: str) -> str:
        codes.append(code)
        return "id"

    async def run() -> None:
        kind = make_protocol(WireLimits(100, 5, 0.5, 9, refused), Arrivals())
        config = uvicorn.Config(lambda: None, http=kind, log_config=None, timeout_keep_alive=0)
        protocol: Any = kind(config, ServerState(), {})  # type: ignore[call-arg]
        transport = Transport()
        protocol.connection_made(transport)
        await work(protocol, transport)
        protocol.connection_lost(None)
        assert (protocol._timer, protocol._send_timer) == (None, None)

    asyncio.run(run())
    assert codes == []


def test_every_request_that_was_read_is_pending_until_it_starts() -> None:
    """Those that wait behind another on a connection, when their turn comes."""
    arrivals, found = Arrivals(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append((scope["path"], arrivals.pending))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def run() -> None:
        kind = make_protocol(WireLimits(100, 5, 0.5, 9, str), arrivals)
        config = uvicorn.Config(app, http=kind, log_config=None)
        config.load()
        first, second, third = (b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in (1, 2, 3))
        parts = (first + second, third)
        protocols: list[Any] = [kind(config, ServerState(), {}) for _ in parts]  # type: ignore[call-arg]
        assert not arrivals.tracked
        for protocol, part in zip(protocols, parts, strict=True):
            protocol.connection_made(Transport())
            protocol.data_received(part + b"GET /4 HTTP/1.1\r\n")
        assert (arrivals.tracked, arrivals.pending) == (True, 2)
        await asyncio.sleep(0.05)
        for protocol in protocols:
            protocol.connection_lost(None)

    asyncio.run(run())
    assert found == [("/1", 1), ("/3", 1), ("/2", 0)]
    assert arrivals.pending == 0


def test_only_a_client_that_takes_nothing_in_time_is_cut_off() -> None:
    async def work(protocol: Any, transport: Transport) -> None:
        for _ in range(3):
            protocol.pause_writing()
            await asyncio.sleep(0.1)
            protocol.resume_writing()
        assert transport.ended == ""
        protocol.pause_writing()
        await asyncio.sleep(0.8)
        assert transport.ended == "aborted"

    on_a_connection(work)


def test_an_idle_connection_whose_last_bytes_are_not_taken_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(protocol: Any, transport: Transport) -> None:
        protocol.on_response_complete()
        await asyncio.sleep(0.1)
        assert transport.ended == "closed"
        await asyncio.sleep(0.5)
        assert transport.ended == "aborted"

    monkeypatch.setattr("slimq_service.server.http_protocol.LINGER_SECONDS", 0.3)
    on_a_connection(work)
