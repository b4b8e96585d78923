"""A server that a load test sends to, and which behaves as a test wants."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from slimq.loadtest.connection import Pool
from slimq.loadtest.driver import BlockResult, drive_closed, drive_open
from slimq.loadtest.requests import Address, Requests

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
) -> tuple[BlockResult, Peer]:
    options = {"seconds": 0.2, "timeout": 5.0, **options}

    async def run() -> tuple[BlockResult, Peer]:
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
