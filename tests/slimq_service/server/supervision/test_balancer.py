"""Connections that are kept open are spread evenly over the workers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from waiting import until

CONNECTIONS = 32
ATTEMPTS = 3
"""A worker that a busy machine keeps from running for a second is passed over meanwhile."""
REQUEST = b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def accepted_inodes(port: int) -> set[str]:
    """Inodes of the accepted sockets of a port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[3] == "01" and int(row[1].split(":")[1], 16) == port}


def connections_of(pid: int, inodes: set[str]) -> int:
    """How many of these connections a process has open."""
    held = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            held.add(str(descriptor.readlink()))
    return sum(f"socket:[{inode}]" in held for inode in inodes)


@contextlib.contextmanager
def kept_open(process: Any, count: int, *, at_once: bool) -> Iterator[None]:
    """Connections with one answered request each."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            connection = stack.enter_context(process.connect())
            connection.sendall(REQUEST)
            if at_once:
                opened.append(connection)
            else:
                assert b"200 OK" in connection.recv(4096)
        for connection in opened:
            assert b"200 OK" in connection.recv(4096)
        yield


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("at_once", [True, False])
def test_connections_that_stay_open_are_spread_evenly(
    launch: Any, tiny_repository: Path, tmp_path: Path, workers: int, at_once: bool
) -> None:
    process = launch(tiny_repository, tmp_path / "log", SLIMQ_WORKERS=str(workers))

    def states() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = httpx.get(process.url + "/readyz").json()["workers"]
        return found

    def all_answer() -> bool:
        return [worker["state"] for worker in states()] == ["answering"] * workers

    spreads: list[list[int]] = []
    for _ in range(ATTEMPTS):
        until(all_answer, 60)
        with kept_open(process, CONNECTIONS, at_once=at_once):
            inodes = accepted_inodes(process.port)
            spreads.append([connections_of(worker["pid"], inodes) for worker in states()])
        assert sum(spreads[-1]) == CONNECTIONS
        if max(spreads[-1]) - min(spreads[-1]) <= 2:
            return
    pytest.fail(f"connections of each worker: {spreads}")
