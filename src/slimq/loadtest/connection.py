"""Connections of the load generator: minimal HTTP/1.1, one request at a time.

A general-purpose client spends more time on a request than a small model does, and would dominate
the measurement. Here a request is two writes of prepared bytes; of a response, only the status and
the end are parsed.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from slimq.core.errors import ServiceError
from slimq.loadtest.requests import Address

RETRY_SECONDS = 0.05
_POLL_SECONDS = 0.001
CONNECT_SECONDS = 10.0

MAX_OPENING = 32
"""Connections opened concurrently."""

BROKEN = "connection"
"""Failure reason: the connection was closed before the response began."""
CUT_OFF = "answer cut off, or without a length"
"""Failure reason: the connection was closed during the response. If the response does not state its
length, it may have been complete."""
MALFORMED = "malformed"
FINAL = 200
"""Lowest final status; lower ones are interim responses."""


class Listener(Protocol):
    """Receives responses, failures and new connections."""

    def answered(self, connection: Connection, status: int, now: float) -> None:
        """Called when a response is complete; `now` is from `time.perf_counter`."""

    def failed(self, connection: Connection, reason: str) -> None:
        """Called when a request failed because its connection was closed."""

    def opened(self, connection: Connection) -> None:
        """Called when a new connection is open."""


class Connection(asyncio.Protocol):
    """One connection to the service.

    Attributes:
        busy: whether a request is in flight.
        due: when that request was due, by `time.perf_counter`.
        sent: when it was sent.
    """

    def __init__(self, pool: Pool) -> None:
        self.busy = False
        self.due = self.sent = 0.0
        self._pool = pool
        self._transport: Any = None
        self._parser: Any = None
        self._messages, self._status, self._kept = 0, 0, True
        self._reason = BROKEN

    def send(self, parts: Sequence[bytes], due: float) -> None:
        """Sends a request; the listener receives the response."""
        self._parser = HttpResponseParser(self)
        self._messages = 0
        self.busy, self.due = True, due
        self.sent = time.perf_counter()
        self._transport.writelines(parts)

    def abort(self, reason: str) -> None:
        """Closes the connection at once; a request in flight fails for this reason."""
        self._reason = reason
        self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        """Called by asyncio when the connection is open."""
        self._transport = transport
        if self._pool.closed:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio with a part of a response."""
        if not self.busy:
            self.abort(MALFORMED)
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self.abort(MALFORMED)
            return
        if self._messages == 1:
            self._finish()
        elif self._messages:
            self.abort(MALFORMED)

    def on_message_complete(self) -> None:
        """Called by the parser at the end of a response; further data is handled by the caller."""
        status = self._parser.get_status_code()
        if status < FINAL:
            return
        self._messages += 1
        self._status = status
        self._kept = self._parser.should_keep_alive()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Called by asyncio when the connection is closed."""
        self._pool.remove(self)
        if self.busy:
            self.busy = False
            if self._reason == BROKEN and self._parser.get_status_code():
                self._reason = CUT_OFF
            self._pool.listener.failed(self, self._reason)

    def _finish(self) -> None:
        now = time.perf_counter()
        self.busy = False
        if not self._kept:
            self._transport.close()
            self._pool.remove(self)
        self._pool.listener.answered(self, self._status, now)


class _NoListener:
    def answered(self, connection: Connection, status: int, now: float) -> None:
        pass

    def failed(self, connection: Connection, reason: str) -> None:
        pass

    def opened(self, connection: Connection) -> None:
        pass


class Pool:
    """Connections to one service; one that is closed is replaced.

    Attributes:
        listener: receives responses and failures.
        open: the connections that can be used.
        closed: whether the pool is closed.
    """

    def __init__(self, address: Address, count: int) -> None:
        self.listener: Listener = _NoListener()
        self.open: set[Connection] = set()
        self._address, self._count = address, count
        self._opening: set[asyncio.Task[None]] = set()
        self._reserved = 0
        self._tls = ssl.create_default_context() if address.tls else None
        self.closed = False

    def detach(self) -> None:
        """Removes the listener."""
        self.listener = _NoListener()

    def usable(self, connection: Connection) -> bool:
        """Whether a request can be sent on this connection."""
        return connection in self.open

    async def fill(self, patience: float = 0.0) -> bool:
        """Opens the missing connections.

        Args:
            patience: seconds for which refused connections are retried.

        Returns:
            Whether a connection was refused at first.

        Raises:
            ServiceError: the service is unreachable, or closes new connections at once.
        """
        url, begin, refused = self._address.authority, time.monotonic(), False
        most_open, grew = 0, begin
        await asyncio.sleep(_POLL_SECONDS)  # lets pending disconnects be processed
        while len(self.open) < self._count:
            if len(self.open) > most_open:
                most_open, grew = len(self.open), time.monotonic()
            if time.monotonic() - grew > patience + CONNECT_SECONDS:
                raise ServiceError(url, None, "closes connections as soon as they are open")
            if not self._missing():
                await asyncio.sleep(_POLL_SECONDS)
                continue
            error = await self._connect_some()
            if error is not None:
                refused = True
                if time.monotonic() - begin >= patience:
                    problem = f"cannot be reached ({str(error) or type(error).__name__})"
                    raise ServiceError(url, None, problem) from error
                await asyncio.sleep(RETRY_SECONDS)
        return refused

    def remove(self, connection: Connection) -> None:
        """Removes a closed connection and opens another in its place."""
        if connection not in self.open:
            return
        self.open.discard(connection)
        if not self.closed:
            used = connection.sent > 0
            task = asyncio.get_running_loop().create_task(self._reopen(at_once=used))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def close(self) -> None:
        """Closes all connections."""
        self.closed = True
        self.detach()
        for task in list(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in list(self.open):
            connection.abort(BROKEN)
        await asyncio.sleep(0)

    async def _reopen(self, *, at_once: bool) -> None:
        if not at_once:  # spares a service that closes new connections at once
            await asyncio.sleep(RETRY_SECONDS)
        while not self.closed and self._missing():
            try:
                connection = await self._connect()
            except OSError:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self.listener.opened(connection)
            return

    async def _connect_some(self) -> OSError | None:
        """Opens some of the missing connections; returns the first error, if any."""
        tries = [self._connect() for _ in range(min(self._missing(), MAX_OPENING))]
        problem = None
        for outcome in await asyncio.gather(*tries, return_exceptions=True):
            if isinstance(outcome, OSError):
                problem = problem or outcome
            elif isinstance(outcome, BaseException):
                raise outcome
        return problem

    def _missing(self) -> int:
        """Connections that are neither open nor being opened."""
        return self._count - len(self.open) - self._reserved

    async def _connect(self) -> Connection:
        address = self._address
        factory: Callable[[], Connection] = lambda: Connection(self)  # noqa: E731
        self._reserved += 1
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                transport, connection = await asyncio.get_running_loop().create_connection(
                    factory, address.host, address.port, ssl=self._tls
                )
        finally:
            self._reserved -= 1
        if transport.is_closing():
            raise ConnectionResetError("the connection was closed at once")
        self.open.add(connection)
        return connection
