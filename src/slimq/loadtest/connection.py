"""Connections of the load generator: HTTP/1.1, one request at a time, no more work than needed.

A general client spends more on a request than a small model does, and would be what is measured.
Here a request is two writes of bytes made beforehand, and an answer is its status and its end.
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
"""Connections that are opened side by side."""

BROKEN = "connection"
"""Reason of a request whose connection ended before its answer began."""
CUT_OFF = "answer cut off, or without a length"
"""Reason of one whose connection ended in the midst of it: where nothing says how long an answer
is, the two cannot be told apart."""
MALFORMED = "malformed"
FINAL = 200
"""A status below it announces another answer."""


class Load(Protocol):
    """What makes the load: it hears of answers, failures, and connections that are free."""

    def answered(self, connection: Connection, status: int, now: float) -> None:
        """The whole answer is here; `now` is of `time.perf_counter`."""

    def failed(self, connection: Connection, reason: str) -> None:
        """There will be no answer, and the connection has gone."""

    def opened(self, connection: Connection) -> None:
        """A connection is there that was not before."""


class Connection(asyncio.Protocol):
    """One connection.

    Attributes:
        busy: whether a request waits for its answer.
        due: when that request was to be sent, by `time.perf_counter`.
        sent: when it was.
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
        """Sends a request, whose answer comes to the load."""
        self._parser = HttpResponseParser(self)
        self._messages = 0
        self.busy, self.due = True, due
        self.sent = time.perf_counter()
        self._transport.writelines(parts)

    def abort(self, reason: str) -> None:
        """Ends it now; a request that waits has failed for this reason."""
        self._reason = reason
        self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        """It is open."""
        self._transport = transport
        if self._pool.closed:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """A part of an answer."""
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
        """The parser has seen a whole answer; what follows it is looked at when it has returned."""
        status = self._parser.get_status_code()
        if status < FINAL:
            return
        self._messages += 1
        self._status = status
        self._kept = self._parser.should_keep_alive()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """It has ended."""
        self._pool.lose(self)
        if self.busy:
            self.busy = False
            if self._reason == BROKEN and self._parser.get_status_code():
                self._reason = CUT_OFF
            self._pool.load.failed(self, self._reason)

    def _finish(self) -> None:
        now = time.perf_counter()
        self.busy = False
        if not self._kept:
            self._transport.close()
            self._pool.lose(self)
        self._pool.load.answered(self, self._status, now)


class _Idle:
    def answered(self, connection: Connection, status: int, now: float) -> None:
        pass

    def failed(self, connection: Connection, reason: str) -> None:
        pass

    def opened(self, connection: Connection) -> None:
        pass


class Pool:
    """The connections to one service; one that ends is replaced.

    Attributes:
        load: what hears of answers.
        open: the connections that can be used.
        closed: whether it is over.
    """

    def __init__(self, address: Address, count: int) -> None:
        self.load: Load = _Idle()
        self.open: set[Connection] = set()
        self._address, self._count = address, count
        self._opening: set[asyncio.Task[None]] = set()
        self._reserved = 0
        self._tls = ssl.create_default_context() if address.tls else None
        self.closed = False

    def rest(self) -> None:
        """Nobody hears of answers any more."""
        self.load = _Idle()

    def usable(self, connection: Connection) -> bool:
        """Whether another request can be sent on it."""
        return connection in self.open

    async def fill(self, patience: float = 0.0) -> bool:
        """Opens what is missing.

        Args:
            patience: seconds for which a service that refuses is asked again.

        Returns:
            Whether it refused at first.

        Raises:
            ServiceError: the service cannot be reached, or ends what it has just opened.
        """
        url, begin, refused = self._address.authority, time.monotonic(), False
        most, grew = 0, begin
        await asyncio.sleep(_POLL_SECONDS)  # what has ended by now is heard of
        while len(self.open) < self._count:
            if len(self.open) > most:
                most, grew = len(self.open), time.monotonic()
            if time.monotonic() - grew > patience + CONNECT_SECONDS:
                raise ServiceError(url, None, "ends connections as soon as they are open")
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

    def lose(self, connection: Connection) -> None:
        """A connection has ended: another is opened in its place."""
        if connection not in self.open:
            return
        self.open.discard(connection)
        if not self.closed:
            used = connection.sent > 0
            task = asyncio.get_running_loop().create_task(self._reopen(at_once=used))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def close(self) -> None:
        """Ends all of them."""
        self.closed = True
        self.rest()
        for task in list(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in list(self.open):
            connection.abort(BROKEN)
        await asyncio.sleep(0)

    async def _reopen(self, *, at_once: bool) -> None:
        if not at_once:  # a service that ends what it has just opened is not hammered
            await asyncio.sleep(RETRY_SECONDS)
        while not self.closed and self._missing():
            try:
                connection = await self._connect()
            except OSError:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self.load.opened(connection)
            return

    async def _connect_some(self) -> OSError | None:
        """Opens some of what is missing, and says what kept the first of the others from it."""
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
            raise ConnectionResetError("it ended at once")
        self.open.add(connection)
        return connection
