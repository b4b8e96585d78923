"""What depends on a real process: bodies on the wire, bombs, clients that go away, memory."""

from __future__ import annotations

import gzip
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from builders import make_mlp

PATH = "/v2/models/tiny/infer"


def resident(process: Any) -> int:
    """Bytes of memory that the process holds."""
    status = Path(f"/proc/{process.process.pid}/status").read_text(encoding="ascii")
    (line,) = [row for row in status.splitlines() if row.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def alive(server: Any, protocol: Any) -> None:
    document = protocol.document(np.zeros((1, 4), np.float32))
    assert httpx.post(server.url + PATH, json=document).status_code == 200
    assert server.process.poll() is None


def receive(connection: socket.socket) -> bytes:
    """All that comes until the server closes: headers and body may come in parts."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_an_announced_body_over_the_limit_is_refused_before_it_is_sent(
    server: Any, protocol: Any
) -> None:
    with server.connect() as connection:
        connection.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n".encode()
        )
        answer = receive(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'{"error":' in answer
    assert b"connection: close" in answer.lower()
    alive(server, protocol)


def test_a_chunked_body_without_any_header_is_answered(server: Any, protocol: Any) -> None:
    document = json.dumps(protocol.document(np.zeros((2, 4), np.float32))).encode()
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in (document[:20], document[20:])]
    with server.connect() as connection:
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        connection.sendall(
            head.encode() + b"Connection: close\r\n\r\n" + b"".join(chunks) + b"0\r\n\r\n"
        )
        answer = receive(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"model_name":"tiny"' in answer


def test_a_body_that_stops_is_408_and_one_that_breaks_off_is_forgotten(
    server: Any, protocol: Any
) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode()
    with server.connect() as connection:
        connection.sendall(head + b"{")
        answer = receive(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    with server.connect() as connection:
        connection.sendall(head + b"{")
    with server.connect() as connection:
        connection.sendall(head.replace(PATH.encode(), b"/v2/repository/index") + b"{")
    alive(server, protocol)
    assert "Traceback" not in server.log.read_text()


def test_bombs_do_not_grow_the_process(server: Any, protocol: Any) -> None:
    bomb = gzip.compress(bytes(100_000_000))
    assert len(bomb) < 200_000, "it passes the limit on what is sent"
    alive(server, protocol)
    before = resident(server)
    for _ in range(5):
        answer = httpx.post(server.url + PATH, content=bomb, headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 413
    assert resident(server) - before < 30_000_000
    alive(server, protocol)


@pytest.mark.slow
def test_memory_comes_back_when_a_version_is_unloaded(
    launch: Any, repositories: Any, tmp_path: Path
) -> None:
    wide = make_mlp(1, width=2_000_000)  # 48 MB of weights
    repositories.publish("tiny", "other", wide)
    process = launch(repositories.root, tmp_path / "log", SLIMQ_WATCH_SECONDS="60")
    where = f"{process.url}/v2/repository/models/tiny"
    named = {"parameters": {"variants": ["other"]}}

    def move(action: str) -> int:
        answer = httpx.post(f"{where}/{action}", json=named, timeout=60)
        assert answer.status_code == 200, answer.text
        return resident(process)

    move("load")
    settled = move("unload")
    assert move("load") - settled > 40_000_000, "a load that is kept is seen"
    for _ in range(5):
        move("unload")
        move("load")
    assert move("unload") - settled < 100_000_000, "five more that are kept would be 300 MB"
