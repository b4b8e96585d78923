"""Five minutes of everything at once: good and bad requests, cut connections, publishing, loading.

`SOAK_SECONDS` makes it shorter or longer.
"""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import make_mlp

SECONDS = float(os.environ.get("SOAK_SECONDS", "300"))
GROWTH_BYTES = 40_000_000
JSON, RAW = "application/json", "application/octet-stream"
GOOD = json.dumps({"observations": [[0.1, 0.2, 0.3, 0.4]] * 3}).encode()
BAD = (b"{", b"[]", b'{"observations": []}', b'{"observations": [[1, 2]]}', b"\xff" * 50_000)


class Client(threading.Thread):
    """Does one thing again and again, and counts the statuses of the answers."""

    def __init__(self, port: int, end: float, work: Callable[[Client], None]) -> None:
        super().__init__()
        self.port, self.end, self.work = port, end, work
        self.statuses: Counter[int] = Counter()
        self.random = random.Random(threading.active_count())
        self.connection = HTTPConnection("127.0.0.1", port, timeout=30)
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while time.monotonic() < self.end:
                self.work(self)
        except BaseException as error:
            self.failure = error
        finally:
            self.connection.close()

    def send(
        self, path: str, body: bytes, media: str = JSON, method: str = "POST", **more: str
    ) -> bytes:
        headers = {"content-type": media, **{name.replace("_", "-"): more[name] for name in more}}
        try:
            self.connection.request(method, path, body, headers)
            answer = self.connection.getresponse()
        except ConnectionError:  # the service closes those whose body it does not want
            self.connection.close()
            self.statuses[0] += 1
            return b""
        self.statuses[answer.status] += 1
        return answer.read()


def act(client: Client) -> None:
    answer = json.loads(client.send("/v1/policies/tiny/act", GOOD))
    assert len(answer["actions"]) == 3


def frames(client: Client) -> None:
    body = client.random.randbytes(FRAME_BYTES * client.random.randint(1, 8))
    client.send("/v1/policies/tiny_frames/act", body, RAW)


def protocol(client: Client) -> None:
    client.send("/v2/models/tiny/infer", b"\0" * 16, RAW, inference_header_content_length="0")
    client.send("/v1/policies/tiny/compare", GOOD)
    client.send("/metrics", b"", method="GET")


def wrong(client: Client) -> None:
    client.send("/v1/policies/tiny/act", client.random.choice(BAD))
    client.send("/v1/policies/none/act", GOOD)


def crash(client: Client) -> None:
    """Sends part of a request and resets the connection."""
    with socket.create_connection(("127.0.0.1", client.port)) as gone:
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        head = f"POST /v1/policies/tiny_frames/act HTTP/1.1\r\nhost: x\r\ncontent-type: {RAW}\r\n"
        whole = f"{head}content-length: {FRAME_BYTES}\r\n\r\n".encode() + b"\0" * FRAME_BYTES
        gone.sendall(whole[: client.random.randint(1, len(whole))])
    time.sleep(0.01)


def control(client: Client) -> None:
    for action in ("load", "unload"):
        client.send(f"/v2/repository/models/tiny/{action}", b"")
        time.sleep(0.2)


FRAME_BYTES = 4 * 84 * 84


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_grows(
    launch: Any, tiny_repository: Path, tmp_path: Path, repositories: Any
) -> None:
    process = launch(tiny_repository, tmp_path / "log")
    end = time.monotonic() + SECONDS
    works = [act, act, frames, frames, protocol, wrong, crash, control]
    clients = [Client(process.port, end, work) for work in works]
    for client in clients:
        client.start()
    sizes: list[int] = []
    descriptors: list[int] = []
    version = 0
    while time.monotonic() < end:
        time.sleep(1)
        version += 1
        repositories.publish("tiny", "other", make_mlp(version))
        models = repositories.folder("tiny", "other").glob("model-*")
        for old in sorted(models, key=lambda path: path.stat().st_mtime_ns)[:-20]:
            old.unlink()
        sizes.append(resident(process.process.pid))
        descriptors.append(len(list(Path(f"/proc/{process.process.pid}/fd").iterdir())))
    for client in clients:
        client.join()
    assert [client.failure for client in clients if client.failure] == []
    statuses = sum((client.statuses for client in clients), Counter())
    assert not [status for status in statuses if status >= 500]
    for client in clients[:5]:
        assert set(client.statuses) == {200}
        assert client.statuses[200] > SECONDS / 2
    tenth = max(1, len(sizes) // 10)
    settled = sizes[tenth : 2 * tenth] or sizes[:1]
    assert np.median(sizes[-tenth:]) - np.median(settled) < GROWTH_BYTES
    assert descriptors[-1] < descriptors[0] + 50
    log = process.log.read_text()
    assert "Traceback" not in log


def resident(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
