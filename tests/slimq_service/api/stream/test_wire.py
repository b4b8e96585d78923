"""Streams to a real process, by a client library and byte by byte."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from places import POLICIES
from wire import frame, handshake

TINY = "/v1/policies/tiny/stream"
FRAMES = "/v1/policies/tiny_frames/stream"
ZEROS = bytes(16)
RAW = {"content-type": "application/octet-stream"}
OPEN = "slimq_streams_open"


def stream(server: Any, path: str = TINY, **options: Any) -> Any:
    url = server.url.replace("http://", "ws://")
    return connect(url + path, open_timeout=30, close_timeout=5, **options)


def ask(client: Any, message: Any) -> Any:
    client.send(message)
    return json.loads(client.recv(timeout=30))


def closing(client: Any) -> tuple[int, str]:
    """The close code and reason that the server sends next."""
    with pytest.raises(ConnectionClosed) as caught:
        client.recv(timeout=15)
    assert caught.value.rcvd is not None, "the connection was cut off"
    return caught.value.rcvd.code, caught.value.rcvd.reason


def read_frame(connection: socket.socket) -> tuple[int, bytes]:
    def exactly(count: int) -> bytes:
        parts = b""
        while len(parts) < count:
            part = connection.recv(count - len(parts))
            assert part, "the connection was cut off"
            parts += part
        return parts

    opcode, length = exactly(2)
    if length == 126:
        (length,) = struct.unpack("!H", exactly(2))
    return opcode & 0x0F, exactly(length)


def read_close(connection: socket.socket) -> int:
    opcode, payload = read_frame(connection)
    assert opcode == 8, payload
    return int(struct.unpack("!H", payload[:2])[0])


def test_a_stream_answers_as_act_does(server: Any, stack: Any, newest: Any) -> None:
    with stream(server, FRAMES + "?variant=other") as client:
        answers = [ask(client, one.tobytes()) for one in newest]
    for n, answer in enumerate(answers):
        expected = httpx.post(
            server.url + "/v1/policies/tiny_frames/variants/other/act",
            content=stack(newest[: n + 1]).tobytes(),
            headers=RAW,
        ).json()
        assert [answer["action"]] == expected["actions"]
        assert [answer["q_values"]] == expected["q_values"]
        assert answer["sha256"] == expected["sha256"]


def test_a_stream_that_cannot_be_opened_is_refused_over_http(server: Any) -> None:
    for path, status, code in (
        ("/v1/policies/pongg/stream", 404, "not-found"),
        ("/v1/policies/tiny/variants/int8/stream", 404, "not-found"),
        ("/v1/policies/%00/stream", 404, "not-found"),
        (TINY + "?x=1", 422, "invalid-input"),
        ("/nowhere", 404, "no-such-path"),
    ):
        with pytest.raises(InvalidStatus) as caught:
            stream(server, path).__enter__()
        answer = caught.value.response
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert json.loads(answer.body)["code"] == code
    assert "without completing" not in server.log.read_text(), "a refusal is no mistake"
    assert httpx.get(server.url + TINY).status_code == 426


def test_requests_through_a_proxy_that_upgrades_are_requests_still(server: Any) -> None:
    """nginx, told to pass WebSockets on, sends this header with every request."""
    url, body = server.url + "/v1/policies/tiny/act", {"observations": [[0, 0, 0, 0]]}
    assert httpx.post(url, json=body, headers={"connection": "upgrade"}).status_code == 200


def test_frames_are_not_compressed(server: Any) -> None:
    with stream(server) as client:
        assert client.response.headers.get("sec-websocket-extensions") is None
        assert "action" in ask(client, ZEROS)


def test_a_message_over_the_limit_closes_the_stream(server: Any, settled: Any) -> None:
    """Told by its head; a client that sends the rest may lose the reason to a reset."""
    with stream(server) as client:
        assert ask(client, bytes(2**20))["code"] == "invalid-observation"
    with handshake(server) as connection:
        connection.sendall(bytes([0x82, 0x80 | 127]) + struct.pack("!Q", 2**20 + 1) + bytes(4))
        assert read_close(connection) == 1009
    settled(server, 'slimq_streams_closed_total{reason="too-large"}', 1.0)
    settled(server, OPEN, 0.0)


def test_a_message_may_come_in_pieces_that_count_together(server: Any, settled: Any) -> None:
    with handshake(server) as connection:
        connection.sendall(frame(2, ZEROS[:6], final=False) + frame(9, b"ping"))
        assert read_frame(connection) == (10, b"ping")
        connection.sendall(frame(0, ZEROS[6:]))
        opcode, answer = read_frame(connection)
        assert opcode == 1
        assert "action" in json.loads(answer)
        piece = frame(2, bytes(100), final=False)
        connection.sendall(piece + frame(0, bytes(100), final=False) * 10_500)
        assert read_close(connection) == 1009
    settled(server, OPEN, 0.0)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (frame(2, ZEROS, masked=False), 1002),
        (frame(3, b""), 1002),
        (frame(1, b"\xff\xfe"), 1007),
    ],
)
def test_protocol_violations_close_the_stream(
    server: Any, settled: Any, content: bytes, code: int
) -> None:
    with handshake(server) as connection:
        connection.sendall(content)
        assert read_close(connection) == code
    settled(server, OPEN, 0.0)
    with stream(server) as client:
        assert "action" in ask(client, ZEROS)


def test_bad_messages_by_the_hundred_leave_the_stream_as_it_was(server: Any) -> None:
    generator = np.random.default_rng(0)
    with stream(server) as client:
        before = ask(client, ZEROS)
        for _ in range(200):
            content = generator.bytes(int(generator.integers(0, 40)))
            message: Any = content if len(content) % 2 else content.hex()
            answer = ask(client, message)
            assert ("action" in answer) or answer["code"] in (
                "invalid-observation",
                "malformed-body",
                "invalid-input",
            )
        assert ask(client, ZEROS) == before


def test_a_killed_client_leaves_nothing_behind(
    launch: Any, tmp_path: Path, settled: Any, metric_of: Any
) -> None:
    """In mid-request, with messages sent ahead, and reset by the network."""
    variables = {"SLIMQ_INLINE_SECONDS": "0", "SLIMQ_INFERENCE_THREADS": "1"}
    server = launch(POLICIES, tmp_path / "log", **variables)
    path = "/v1/policies/pong/variants/fp32/stream"
    content = frame(2, bytes(84 * 84))
    with stream(server, path) as client:
        ask(client, bytes(84 * 84))
        for count in (1, 1, 3, 20):
            connection = handshake(server, path)
            connection.sendall(content * count)
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.close()
            ask(client, bytes(84 * 84))
        settled(server, OPEN, 1.0)
        assert "action" in ask(client, bytes(84 * 84))
    settled(server, OPEN, 0.0)
    assert metric_of(server, 'slimq_streams_closed_total{reason="lost"}') == 4
    assert metric_of(server, "slimq_requests_in_flight") == 0
    assert metric_of(server, "slimq_queue_depth") == 0
    assert "Traceback" not in server.log.read_text()


def test_many_streams_at_once_share_batches_and_each_gets_its_own_answers(
    launch: Any, tmp_path: Path, metric_of: Any
) -> None:
    variables = {
        "SLIMQ_INLINE_SECONDS": "0",
        "SLIMQ_ALONE_SECONDS": "0",
        "SLIMQ_INFERENCE_THREADS": "1",
    }
    server = launch(POLICIES, tmp_path / "log", **variables)
    streams, steps = 16, 6
    frames = np.random.default_rng(2).integers(0, 256, (streams, steps, 84, 84), dtype=np.uint8)
    together = threading.Barrier(streams)

    def play(index: int) -> list[Any]:
        with stream(server, "/v1/policies/pong/variants/fp32/stream") as client:
            together.wait(30)
            return [ask(client, one.tobytes()) for one in frames[index]]

    with ThreadPoolExecutor(streams) as threads:
        answers = list(threads.map(play, range(streams)))
    labels = '{policy="pong",variant="fp32"}'
    total = metric_of(server, f"slimq_batch_observations_sum{labels}")
    assert total == metric_of(server, f"slimq_observations_total{labels}") == streams * steps
    assert metric_of(server, f"slimq_batch_observations_count{labels}") < total / 1.5
    padded = np.concatenate([np.zeros((streams, 3, 84, 84), np.uint8), frames], axis=1)
    for step in range(steps):
        expected = httpx.post(
            server.url + "/v1/policies/pong/variants/fp32/act",
            content=np.ascontiguousarray(padded[:, step : step + 4]).tobytes(),
            headers=RAW,
            timeout=60,
        ).json()
        found = [answers[index][step]["q_values"] for index in range(streams)]
        np.testing.assert_allclose(found, expected["q_values"], rtol=1e-4, atol=1e-4)


def test_a_silent_client_is_told_why_it_is_closed(
    launch: Any, tiny_repository: Path, tmp_path: Path, settled: Any
) -> None:
    server = launch(tiny_repository, tmp_path / "log", SLIMQ_STREAM_IDLE_SECONDS="0.3")
    with stream(server) as client:
        assert "action" in ask(client, ZEROS)
        assert closing(client) == (4408, "idle for too long")
    settled(server, OPEN, 0.0)


def test_a_client_that_sends_but_never_reads_is_held_back_and_then_closed(
    launch: Any, tiny_repository: Path, tmp_path: Path, settled: Any, metric_of: Any
) -> None:
    """Its messages are wrong, so that their answers are long and soon fill what is between."""
    server = launch(tiny_repository, tmp_path / "log", SLIMQ_STREAM_IDLE_SECONDS="1")
    long = b'{"%s": 1}' % (b"x" * 500)
    content, sent = frame(1, long) * 200, 0
    with handshake(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(3)
        with contextlib.suppress(TimeoutError):
            while sent < 256 * 2**20:
                sent += connection.send(content[sent % len(content) :])
        assert sent < 256 * 2**20, "it must not be read as fast as it can send"
        settled(server, 'slimq_streams_closed_total{reason="idle"}', 1.0)
    assert metric_of(server, OPEN) == 0
    with stream(server) as client:
        assert "action" in ask(client, ZEROS)
    settled(server, OPEN, 0.0)


def test_streams_over_the_limit_are_told_when_to_retry(
    launch: Any, tiny_repository: Path, tmp_path: Path, settled: Any
) -> None:
    server = launch(tiny_repository, tmp_path / "log", SLIMQ_STREAMS="2")
    with stream(server) as first, stream(server) as second:
        with pytest.raises(InvalidStatus) as caught:
            stream(server).__enter__()
        answer = caught.value.response
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert json.loads(answer.body)["code"] == "overloaded"
        assert "action" in ask(first, ZEROS)
        assert "action" in ask(second, ZEROS)
    settled(server, OPEN, 0.0)
    with stream(server) as again:
        assert "action" in ask(again, ZEROS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_closes_streams_with_a_reason(launch: Any, tmp_path: Path, number: int) -> None:
    """An idle one at once, one with messages ahead after its answer, and none is cut off."""
    variables = {"SLIMQ_INLINE_SECONDS": "0", "SLIMQ_INFERENCE_THREADS": "1"}
    server = launch(POLICIES, tmp_path / "log", **variables)
    path = "/v1/policies/pong/variants/fp32/stream"
    with stream(server, path) as idle, stream(server, path) as busy:
        ask(busy, bytes(84 * 84))
        for _ in range(300):
            busy.send(bytes(84 * 84))
        answers = [json.loads(busy.recv(timeout=30))]
        server.process.send_signal(number)
        assert closing(idle) == (1001, "service is restarting")
        answers += [json.loads(answer) for answer in busy]
        assert (busy.close_code, busy.close_reason) == (1001, "service is restarting")
    assert all("action" in answer for answer in answers)
    assert server.process.wait(10) == 0
    assert "Traceback" not in server.log.read_text()


def test_the_streams_of_all_workers_are_counted_and_closed(
    launch: Any, tiny_repository: Path, tmp_path: Path, settled: Any
) -> None:
    server = launch(tiny_repository, tmp_path / "log", SLIMQ_WORKERS="2")
    with contextlib.ExitStack() as opened:
        clients = [opened.enter_context(stream(server)) for _ in range(8)]
        assert all("action" in ask(client, ZEROS) for client in clients)
        settled(server, OPEN, 8.0)
        settled(server, "slimq_streams_opened_total", 8.0)
        server.process.send_signal(signal.SIGTERM)
        assert [closing(client) for client in clients] == [(1001, "service is restarting")] * 8
    assert server.process.wait(15) == 0


def test_a_client_that_acknowledges_nothing_does_not_hold_up_the_end(
    launch: Any, tiny_repository: Path, tmp_path: Path
) -> None:
    server = launch(tiny_repository, tmp_path / "log", SLIMQ_SHUTDOWN_SECONDS="120")
    with handshake(server) as connection:
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert read_close(connection) == 1001
        assert server.process.wait(60) == 0
        assert time.monotonic() - began < 20


def test_a_client_has_time_to_acknowledge_the_end(
    launch: Any, tiny_repository: Path, tmp_path: Path
) -> None:
    """What it has sent meanwhile does not reset the connection."""
    server = launch(tiny_repository, tmp_path / "log")
    with handshake(server) as connection:
        server.process.send_signal(signal.SIGTERM)
        assert read_close(connection) == 1001
        time.sleep(0.3)
        connection.sendall(frame(2, ZEROS))
        time.sleep(0.1)
        connection.sendall(frame(8, struct.pack("!H", 1001)))
        assert connection.recv(1) == b""
    assert server.process.wait(10) == 0
