"""Streams in MessagePack to a real process: hostile bytes, clients that vanish, newest first."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from places import POLICIES
from robots import array_map, pack, unpack
from wire import frame, handshake

TINY = "/v1/policies/tiny/stream?format=msgpack"
FRAMES = "/v1/policies/tiny_frames/stream?format=msgpack"
ZEROS = pack({"observation": np.zeros(4, np.float32)})
OPEN = "slimq_streams_open"
CODES = {"invalid-observation", "malformed-body", "invalid-input", "over-limit", "not-found"}
MESSAGES = 2000
MEBIBYTE = 2**20


@contextlib.contextmanager
def stream(server: Any, path: str = TINY) -> Iterator[Any]:
    url = server.url.replace("http://", "ws://") + path
    with connect(url, open_timeout=30, close_timeout=5, compression=None) as client:
        client.metadata = unpack(client.recv(timeout=30))
        yield client


def ask(client: Any, message: Any) -> Any:
    client.send(message)
    return unpack(client.recv(timeout=30))


def resident_bytes(server: Any) -> int:
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024


def hostile(generator: random.Random, sample: bytes) -> bytes:
    """A message of the right kind that was cut, changed or extended, or anything else."""
    kind = generator.randrange(5)
    if kind == 0:
        return generator.randbytes(generator.randrange(200))
    if kind == 1:
        return sample[: generator.randrange(len(sample))]
    content = bytearray(sample)
    if kind == 2:
        for _ in range(generator.randrange(1, 6)):
            content[generator.randrange(len(content))] = generator.randrange(256)
    elif kind == 3:
        at = generator.randrange(len(content))
        content[at:at] = generator.randbytes(generator.randrange(1, 9))
    else:
        del content[generator.randrange(len(content)) :]
        content += generator.randbytes(generator.randrange(60))
    return bytes(content)


def test_thousands_of_hostile_messages_leave_the_stream_as_it_was(server: Any) -> None:
    generator = random.Random(7)
    samples = [
        ZEROS,
        pack({"observation": [0.0, 1.0, 2.0, 3.0], "reset": True, "variant": "other"}),
        pack({"observation": np.arange(4), "reset": np.bool_(True)}),
        pack({"variant": "fp32"}),
    ]
    refused = 0
    with stream(server) as client:
        before = ask(client, pack({"observation": np.zeros(4), "variant": "fp32"}))
        for n in range(MESSAGES):
            answer = ask(client, hostile(generator, samples[n % len(samples)]))
            assert answer["server_timing"]["total_ms"] < 5000
            if "code" in answer:
                assert answer["code"] in CODES | {"non-finite-q-values"}, answer
                assert answer["status"] < 500
                refused += 1
            else:
                assert answer["policy"] == "tiny"
        after = ask(client, pack({"observation": np.zeros(4), "variant": "fp32"}))
    assert MESSAGES / 2 < refused < MESSAGES
    np.testing.assert_array_equal(after["q_values"], before["q_values"])
    assert "Traceback" not in server.log.read_text()


def head(declared: bytes) -> bytes:
    return b"\x81\xabobservation" + declared


GIGABYTE = struct.pack(">I", 2**30)
BOMBS = {
    "bytes": head(b"\xc6" + GIGABYTE + b"x"),
    "string": head(b"\xdb" + GIGABYTE + b"x"),
    "list": head(b"\xdd" + GIGABYTE + b"\x00"),
    "map": head(b"\xdf" + GIGABYTE + b"\x00"),
    "extension": head(b"\xc9" + GIGABYTE + b"\x05x"),
    "lists in lists": head((b"\xdd" + GIGABYTE) * 200),
    "map of a message": b"\xdf" + GIGABYTE + b"\xa1a\x00",
    "shape": pack({"observation": array_map(shape=[2**28])}),
    "shape of zeros": pack({"observation": array_map(shape=[0, 2**62, 2**62], data=b"")}),
    "negative shape": pack({"observation": array_map(shape=[-1])}),
    "negative lengths": pack({"observation": array_map(shape=[-2, -2])}),
    "huge shape": pack({"observation": array_map(shape=[2**64 - 1] * 16)}),
    "objects": pack({"observation": array_map(dtype="|O")}),
    "pickle": pack({"observation": array_map(dtype="|O", data=b"cos\nsystem\n(S'id'\ntR.")}),
    "deep lists": head(b"\x91" * 60_000 + b"\xc0"),
    "deep maps": head(b"\x81\xa1a" * 20_000 + b"\xc0"),
    "many lists": head(b"\xdd" + struct.pack(">I", 65_000) + b"\x90" * 65_000),
    "many keys": b"\xde\x4e\x20" + b"".join(b"\xa4%04x\xc0" % n for n in range(20_000)),
    "too long": head(b"\xc6" + struct.pack(">I", 900_000) + bytes(900_000)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_message_that_declares_much_costs_nothing(server: Any, name: str) -> None:
    with stream(server) as client:
        ask(client, ZEROS)
        before = resident_bytes(server)
        began = time.monotonic()
        for _ in range(10):
            answer = ask(client, BOMBS[name])
            assert answer["code"] in CODES
            assert len(json.dumps(answer)) < 4000
        assert time.monotonic() - began < 5
        assert resident_bytes(server) - before < 32 * MEBIBYTE
        assert "actions" in ask(client, ZEROS)
    assert "Traceback" not in server.log.read_text()


def test_text_where_bytes_are_due_is_a_problem_and_the_stream_goes_on(server: Any) -> None:
    with stream(server) as client:
        answer = ask(client, '{"observation": [0, 0, 0, 0]}')
        assert (answer["code"], answer["received"]) == ("malformed-body", "29 characters of text")
        assert "actions" in ask(client, ZEROS)


def test_a_message_over_the_services_limit_closes_the_stream(server: Any, settled: Any) -> None:
    with stream(server) as client:
        client.send(bytes(MEBIBYTE + 1))
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=15)
        assert caught.value.rcvd is None or caught.value.rcvd.code == 1009
    settled(server, OPEN, 0.0)


@pytest.mark.parametrize("keep", ["all", "newest"])
def test_a_client_that_vanishes_mid_stream_leaves_nothing_behind(
    launch: Any, tmp_path: Path, settled: Any, metric_of: Any, keep: str
) -> None:
    variables = {"SLIMQ_INLINE_SECONDS": "0", "SLIMQ_INFERENCE_THREADS": "1"}
    server = launch(POLICIES, tmp_path / "log", **variables)
    path = f"/v1/policies/pong/variants/fp32/stream?format=msgpack&keep={keep}"
    message = pack({"observation": np.zeros((84, 84), np.uint8)})
    with stream(server, path) as stays:
        ask(stays, message)
        for count in (0, 1, 5, 40):
            connection = handshake(server, path)
            connection.sendall(frame(2, message) * count + frame(2, message)[:100])
            linger = struct.pack("ii", 1, 0)  # resets it, as a killed process or a network may
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.close()
            assert "actions" in ask(stays, message)
        settled(server, OPEN, 1.0)
        assert "actions" in ask(stays, message)
    settled(server, OPEN, 0.0)
    assert metric_of(server, "slimq_requests_in_flight") == 0
    assert metric_of(server, "slimq_queue_depth") == 0
    assert "Traceback" not in server.log.read_text()


def test_the_newest_of_the_observations_sent_while_one_is_run_wins(
    launch: Any, tmp_path: Path, metric_of: Any
) -> None:
    """A frame that is run is answered; of those that arrive meanwhile, only the last is run."""
    server = launch(POLICIES, tmp_path / "log")
    path = "/v1/policies/pong/variants/fp32/stream?format=msgpack&keep=newest"
    frames = np.random.default_rng(3).integers(0, 256, (200, 84, 84), dtype=np.uint8)
    with stream(server, path) as client:
        assert client.metadata["keep"] == "newest"
        for one in frames:
            client.send(pack({"observation": one}))
        answers = [unpack(client.recv(timeout=30)) for _ in frames]
    run = ["actions" in answer for answer in answers]
    assert run[-1]
    assert sum(run) < len(frames) / 2
    assert [answer.get("superseded", False) for answer in answers] == [not one for one in run]
    assert metric_of(server, "slimq_streams_superseded_total") == run.count(False)
    whole = httpx.post(
        server.url + "/v1/policies/pong/variants/fp32/act",
        content=frames[-4:].tobytes(),
        headers={"content-type": "application/octet-stream"},
    ).json()
    np.testing.assert_array_equal(answers[-1]["q_values"], np.float32(whole["q_values"]))


def test_a_client_that_waits_for_each_answer_gets_an_action_for_each(server: Any) -> None:
    with stream(server, FRAMES + "&keep=newest") as client:
        message = pack({"observation": np.zeros((84, 84), np.uint8)})
        assert all("actions" in ask(client, message) for _ in range(200))


def test_a_client_that_never_reads_is_held_back_although_the_newest_wins(
    launch: Any, tiny_repository: Path, tmp_path: Path, settled: Any, metric_of: Any
) -> None:
    server = launch(tiny_repository, tmp_path / "log", SLIMQ_STREAM_IDLE_SECONDS="1")
    content, sent = frame(2, ZEROS) * 200, 0
    with handshake(server, TINY + "&keep=newest") as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(3)
        with contextlib.suppress(TimeoutError):
            while sent < 256 * MEBIBYTE:
                sent += connection.send(content[sent % len(content) :])
        assert sent < 256 * MEBIBYTE, "it must not be read as fast as it can send"
        settled(server, 'slimq_streams_closed_total{reason="idle"}', 1.0)
    assert metric_of(server, OPEN) == 0
