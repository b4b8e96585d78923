"""Both loops and their connections, against servers that behave well or badly."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from slimq.core.errors import ServiceError
from slimq.evaluation.loadtest import connection
from slimq.evaluation.loadtest.connection import AT_ONCE, CUT_OFF, Pool
from slimq.evaluation.loadtest.driver import Answers, drive_closed, drive_open
from slimq.evaluation.loadtest.requests import Address, Requests

BODIES = tuple(bytes([index]) * 10 for index in range(5))
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n"
REQUESTS = Requests(HEAD, BODIES)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"

Handler = Callable[["Peer", Any], Awaitable[None]]


class Peer:
    """A server on a socket that reads whole requests and hands their bodies to a function.

    Attributes:
        bodies: what has arrived, in its order.
        connections: how many were opened.
    """

    def __init__(self, handle: Handler) -> None:
        self.bodies: list[bytes] = []
        self.connections = 0
        self.tasks: list[Any] = []
        self._handle = handle

    async def serve(self, reader: Any, writer: Any) -> None:
        self.connections += 1
        self.tasks.append(asyncio.current_task())
        try:
            while True:
                request = await reader.readexactly(len(HEAD) + 10)
                assert request.startswith(HEAD)
                self.bodies.append(request[len(HEAD) :])
                await self._handle(self, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def well(peer: Peer, writer: Any) -> None:
    writer.write(ANSWER)


def drive(
    handle: Handler, *, rate: float | None = None, connections: int = 2, **options: Any
) -> tuple[Answers, Peer]:
    options = {"seconds": 0.2, "timeout": 5.0, **options}

    async def run() -> tuple[Answers, Peer]:
        peer = Peer(handle)
        server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
        address = Address(*server.sockets[0].getsockname()[:2], False, "")
        pool = Pool(address, connections)
        try:
            await pool.fill()
            if rate is None:
                return await drive_closed(pool, REQUESTS, **options), peer
            return await drive_open(pool, REQUESTS, rate=rate, **options), peer
        finally:
            await pool.close()
            server.close()
            await asyncio.sleep(0.05)  # a connection that was being opened is accepted by now
            await asyncio.gather(*peer.tasks)

    return asyncio.run(run())


def test_a_closed_loop_sends_the_bodies_in_turn_and_counts_the_answers() -> None:
    answers, peer = drive(well, first=3, connections=1)
    assert answers.sent == answers.answered == len(peer.bodies) > 20
    assert peer.bodies == [BODIES[(3 + index) % 5] for index in range(answers.sent)]
    assert answers.seconds == pytest.approx(0.18)
    assert answers.completed <= answers.answered
    assert len(answers.latencies) <= answers.completed + 1
    assert not answers.failed
    assert 0 < answers.generator <= 1.5


def test_an_open_loop_sends_what_is_due_and_no_more() -> None:
    answers, peer = drive(well, rate=200)
    assert answers.sent == answers.answered == len(peer.bodies) == 40
    assert answers.dropped == 0
    assert len(answers.latencies) == 36
    assert len(answers.lateness) == 40


def test_latency_counts_from_when_a_request_was_due() -> None:
    async def slow(peer: Peer, writer: Any) -> None:
        await asyncio.sleep(0.05)
        writer.write(ANSWER)

    begin = time.perf_counter()
    closed, _ = drive(slow, connections=1)
    elapsed = time.perf_counter() - begin
    opened, _ = drive(slow, connections=1, rate=40, seconds=0.4)  # twice what the server can do
    assert min(closed.latencies) > 0.04
    assert sum(closed.latencies) < elapsed  # on one connection they follow each other
    assert min(np.diff(opened.latencies)) > 0
    assert max(opened.latencies) > 0.3


def test_what_waits_too_long_is_dropped_and_counted() -> None:
    async def slow(peer: Peer, writer: Any) -> None:
        await asyncio.sleep(0.1)
        writer.write(ANSWER)

    answers, peer = drive(slow, connections=1, rate=100, timeout=0.3, seconds=0.4)
    assert answers.sent + answers.dropped == 40
    assert answers.dropped > 30
    assert answers.answered == answers.sent == len(peer.bodies)


def test_an_open_loop_that_is_behind_ends_after_twice_its_time() -> None:
    async def slow(peer: Peer, writer: Any) -> None:
        await asyncio.sleep(0.15)
        writer.write(ANSWER)

    answers, _ = drive(slow, connections=1, rate=100, seconds=0.4)
    assert answers.answered <= 8
    assert answers.sent + answers.dropped == 40


def test_other_statuses_are_failures_by_their_number() -> None:
    async def refuse(peer: Peer, writer: Any) -> None:
        status = b"503 Busy" if len(peer.bodies) % 2 else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")

    answers, _ = drive(refuse)
    assert answers.failed["503"] in (answers.sent // 2, answers.sent - answers.sent // 2)
    assert answers.answered == answers.sent - answers.failed["503"]
    assert len(answers.latencies) <= answers.answered


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


def test_a_request_without_an_answer_fails_when_its_time_is_up() -> None:
    async def once(peer: Peer, writer: Any) -> None:
        if len(peer.bodies) != 3:
            writer.write(ANSWER)

    answers, _ = drive(once, timeout=0.2)
    assert dict(answers.failed) == {"timeout": 1}
    assert answers.answered == answers.sent - 1


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
    connect = Pool._connect

    async def slowly(pool: Pool) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.02)
        at_once -= 1
        return await connect(pool)

    monkeypatch.setattr(Pool, "_connect", slowly)
    answers, peer = drive(well, connections=2 * AT_ONCE + 1)
    assert (peer.connections, most) == (2 * AT_ONCE + 1, AT_ONCE)
    assert answers.answered == answers.sent


def test_a_service_that_ends_every_connection_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = Pool._connect

    async def ended(pool: Pool) -> Any:
        opened = await connect(pool)
        pool.lose(opened)
        opened.abort("over")
        return opened

    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(Pool, "_connect", ended)
    with pytest.raises(ServiceError, match="ends connections as soon as they are open"):
        drive(well, connections=4)


def test_the_pace_is_that_of_the_answers_whatever_each_takes() -> None:
    async def late(peer: Peer, writer: Any) -> None:
        await asyncio.sleep(0.1)
        writer.write(ANSWER)

    answers, _ = drive(late, rate=50, connections=50, seconds=0.6)
    assert answers.pace == pytest.approx(50, rel=0.15)
    behind, _ = drive(late, rate=50, connections=1, seconds=0.6)
    assert behind.pace == pytest.approx(10, rel=0.15)
    alone, _ = drive(late, rate=1, seconds=0.2)
    assert (alone.answered, alone.pace) == (1, None)
