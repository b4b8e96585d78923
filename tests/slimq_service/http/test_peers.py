from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request

from slimq_service.http.peers import PeerResponse, Peers, socket_name
from slimq_service.http.worker_table import State, WorkerTable
from slimq_service.server.sockets import bind_unix

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture
def table() -> Iterator[WorkerTable]:
    """Of three workers that answer."""
    made = WorkerTable.create(3)
    for index in range(3):
        made.set_state(index, State.ANSWERING, 4711 + index)
    yield made
    made.close()


@pytest.fixture
def others(tmp_path: Path) -> Iterator[list[socket.socket]]:
    """Sockets of two other workers; nobody answers there."""
    made = [bind_unix(tmp_path / socket_name(index)) for index in (1, 2)]
    yield made
    for one in made:
        one.close()


def ask(folder: Path, table: WorkerTable) -> list[PeerResponse]:
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/x",
        "headers": [],
        "server": ("127.0.0.1", 8000),
    }

    async def run() -> list[PeerResponse]:
        return await Peers(folder, socket_name(0), table).ask(Request(scope), b"")

    return asyncio.run(run())


def answer_once(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(ANSWER)


def test_every_other_worker_is_asked(
    tmp_path: Path, others: list[socket.socket], table: WorkerTable
) -> None:
    threads = [threading.Thread(target=answer_once, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    assert ask(tmp_path, table) == [PeerResponse(200, b"ok")] * 2
    for thread in threads:
        thread.join()


def test_one_that_stalls_meanwhile_is_not_waited_for(
    tmp_path: Path, others: list[socket.socket], table: WorkerTable
) -> None:
    answering = threading.Thread(target=answer_once, args=(others[0],))
    stalling = threading.Timer(0.5, table.set_state, (2, State.STALLED, 4713))
    answering.start()
    stalling.start()
    began = time.monotonic()
    assert ask(tmp_path, table) == [PeerResponse(200, b"ok")]
    assert 0.4 < time.monotonic() - began < 10
    answering.join()
    connection, _ = others[1].accept()
    with connection:  # it has been told, for when it goes on
        assert connection.recv(1000).startswith(b"GET /x ")


def test_a_dead_one_is_left_out(
    tmp_path: Path, others: list[socket.socket], table: WorkerTable
) -> None:
    answering = threading.Thread(target=answer_once, args=(others[0],))
    answering.start()
    others[1].close()
    assert ask(tmp_path, table) == [PeerResponse(200, b"ok")]
    answering.join()


def test_a_single_process_has_nobody_to_ask() -> None:
    assert Peers().workers() == []
