"""Connections and their pool, against servers that behave well or badly."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from load_peer import ANSWER, REQUESTS, Peer, drive, well
from slimq.core.errors import ServiceError
from slimq.loadtest import connection
from slimq.loadtest.connection import CUT_OFF, MAX_OPENING, Pool
from slimq.loadtest.driver import drive_closed
from slimq.loadtest.requests import Address


def test_an_answer_in_chunks_and_pieces_is_read_to_its_end() -> None:
    async def chunked(peer: Peer, writer: Any) -> None:
        for piece in (
            b"HTTP/1.1 200 OK\r\ntransfer-enc",
            b"oding: chunked\r\n\r\n3\r\nabc\r",
            b"\n0\r\n\r\n",
        ):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.002)

    answers, peer = drive(chunked)
    assert answers.answered == answers.sent == len(peer.bodies) > 5
    assert peer.connections == 2


def test_an_answer_that_is_announced_is_waited_for() -> None:
    async def announce(peer: Peer, writer: Any) -> None:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
        if len(peer.bodies) % 2:
            await writer.drain()
            await asyncio.sleep(0.002)
        writer.write(ANSWER)

    answers, peer = drive(announce)
    assert not answers.failed
    assert answers.answered == answers.sent == len(peer.bodies) > 5


def test_a_server_that_ends_connections_gets_new_ones() -> None:
    async def close(peer: Peer, writer: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    for rate in (None, 100.0):
        answers, peer = drive(close, rate=rate)
        assert answers.answered == answers.sent > 10
        assert peer.connections >= answers.sent
        assert not answers.failed


def test_a_pool_holds_as_many_connections_as_it_was_asked_for() -> None:
    """Blocks follow each other while connections of the one before are still being replaced."""

    async def close(peer: Peer, writer: Any) -> None:
        writer.write(ANSWER)
        writer.close()

    async def run() -> list[int]:
        peer = Peer(close)
        server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
        pool = Pool(Address(*server.sockets[0].getsockname()[:2], False, ""), 3)
        counts = []
        try:
            for _ in range(12):
                await pool.fill()
                counts.append(len(pool.open))
                await drive_closed(pool, REQUESTS, 0.02, 5)
                await pool.fill()
                await asyncio.sleep(0.005)
                counts.append(len(pool.open))
        finally:
            await pool.close()
            server.close()
            await asyncio.sleep(0.05)
            await asyncio.gather(*peer.tasks)
        return counts

    assert max(asyncio.run(run())) == 3


def test_a_service_that_refuses_for_a_while_is_asked_again() -> None:
    async def run() -> tuple[bool, bool, int]:
        peer = Peer(well)
        server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        server.close()
        await server.wait_closed()
        pool = Pool(Address(host, port, False, ""), 2)
        filling = asyncio.create_task(pool.fill(patience=30))
        await asyncio.sleep(0.2)
        assert not filling.done()
        server = await asyncio.start_server(peer.serve, host, port)
        found = await filling, await pool.fill(patience=30), len(pool.open)
        await pool.close()
        server.close()
        await asyncio.gather(*peer.tasks)
        return found

    assert asyncio.run(run()) == (True, False, 2)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "connection"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{", CUT_OFF),
        (b"HTTP/1.0 200 OK\r\n\r\n{}", CUT_OFF),
        (b"hello\r\n", "malformed"),
        (b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", "malformed"),
    ],
)
def test_a_broken_answer_is_a_failure_and_the_load_goes_on(said: bytes, reason: str) -> None:
    async def now_and_then(peer: Peer, writer: Any) -> None:
        if len(peer.bodies) % 10:
            writer.write(ANSWER)
        else:
            writer.write(said)
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.close()

    answers, peer = drive(now_and_then)
    assert set(answers.failed) == {reason}
    assert answers.failed[reason] == len(peer.bodies) // 10
    assert answers.answered == answers.sent - answers.failed[reason]


@pytest.mark.parametrize("rate", [None, 100.0])
def test_two_answers_at_once_are_a_failure(rate: float | None) -> None:
    async def both(peer: Peer, writer: Any) -> None:
        writer.write(ANSWER if len(peer.bodies) % 4 else ANSWER + ANSWER)

    answers, peer = drive(both, rate=rate)
    assert dict(answers.failed) == {"malformed": len(peer.bodies) // 4}
    assert answers.answered == answers.sent - answers.failed["malformed"]
    assert answers.sent == len(peer.bodies)


def test_an_answer_that_nobody_asked_for_ends_its_connection() -> None:
    async def twice(peer: Peer, writer: Any) -> None:
        writer.write(ANSWER)
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.write(ANSWER)

    answers, peer = drive(twice, rate=50, connections=1, seconds=0.5)
    assert answers.answered + sum(answers.failed.values()) == answers.sent
    assert peer.connections > 1


def test_a_service_that_is_not_there_is_said_so() -> None:
    async def run() -> None:
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        await Pool(Address("127.0.0.1", port, False, ""), 1).fill()

    with pytest.raises(ServiceError, match=r"127\.0\.0\.1:\d+: cannot be reached"):
        asyncio.run(run())


def test_connections_are_opened_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, a thousand to a service far away would take a minute."""
    at_once, most = 0, 0
    connect = asyncio.BaseEventLoop.create_connection

    async def slowly(*arguments: Any, **options: Any) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.02)
        at_once -= 1
        return await connect(*arguments, **options)

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", slowly)
    answers, peer = drive(well, connections=2 * MAX_OPENING + 1)
    assert (peer.connections, most) == (2 * MAX_OPENING + 1, MAX_OPENING)
    assert answers.answered == answers.sent


TRIES = 10
"""A pool that looks when all connections are open at once takes them for good ones."""


def test_a_service_that_ends_every_connection_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = asyncio.BaseEventLoop.create_connection

    async def ended(*arguments: Any, **options: Any) -> Any:
        transport, protocol = await connect(*arguments, **options)
        asyncio.get_running_loop().call_soon(transport.abort)
        return transport, protocol

    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", ended)

    def drive_often() -> None:
        for _ in range(TRIES):
            drive(well, connections=4)

    with pytest.raises(ServiceError, match="closes connections as soon as they are open"):
        drive_often()
