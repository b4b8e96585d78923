"""Incoming messages of a WebSocket, one at a time and in order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.types import Receive

from slimq_service.api.stream.codec import StreamMessage

DISCONNECT = "websocket.disconnect"
MAX_WAITING = 16
"""Messages received ahead of the one in progress if the newest observation wins."""
TURNS = 4
"""Turns of the event loop in which messages that are already in the socket arrive."""

Read = Callable[[MutableMapping[str, Any]], StreamMessage]


class Arrival:
    """A message that has arrived; it is parsed once, when first asked for.

    Attributes:
        message: the ASGI message.
        arrived: when it arrived, by `perf_counter_ns`.
        parsing: nanoseconds that parsing took.
    """

    def __init__(self, message: MutableMapping[str, Any], read: Read) -> None:
        self.message, self.arrived, self.parsing = message, time.perf_counter_ns(), 0
        self._read = read
        self._outcome: StreamMessage | Exception | None = None

    @property
    def is_end(self) -> bool:
        """Whether the client has disconnected."""
        return bool(self.message["type"] == DISCONNECT)

    @property
    def has_frame(self) -> bool:
        """Whether the message is valid and has a frame."""
        with contextlib.suppress(Exception):  # reported when the message is answered
            return not self.is_end and self.parse().frame is not None
        return False

    def parse(self) -> StreamMessage:
        """Parses the message.

        Raises:
            SlimqError: it is invalid.
        """
        if self._outcome is None:
            before = time.perf_counter_ns()
            try:
                self._outcome = self._read(self.message)
            except Exception as error:
                self._outcome = error
            self.parsing = time.perf_counter_ns() - before
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


class Inbox:
    """Receives a message only on demand, so that the server does not read ahead.

    While a message is processed, `watch` waits for the client to disconnect. If it receives another
    message instead, that one is kept for `next`, and no more are received before it.
    """

    has_newer_frame = False
    """Whether a newer frame waits that makes the one in progress obsolete."""

    def __init__(self, receive: Receive, read: Read) -> None:
        self._receive, self._read = receive, read
        self._taken: asyncio.Future[MutableMapping[str, Any]] | None = None

    async def next(self) -> Arrival:
        """Returns the next message; the last one is the disconnection."""
        if self._taken is None:
            return Arrival(await self._receive(), self._read)
        message = await self._taken
        self._taken = None
        return Arrival(message, self._read)

    async def watch(self) -> MutableMapping[str, Any]:
        """An ASGI receive channel that only returns the disconnection; safe to cancel."""
        if self._taken is None:
            self._taken = asyncio.ensure_future(self._receive())
        await asyncio.wait([self._taken])  # being cancelled, it does not cancel the future
        message = self._taken.result()
        if message["type"] != DISCONNECT:
            await asyncio.get_running_loop().create_future()
        return message

    def close(self) -> None:
        """Stops receiving."""
        if self._taken is not None:
            self._taken.cancel()


class NewestInbox:
    """Receives a few messages ahead, to know whether a newer frame has arrived."""

    def __init__(self, receive: Receive, read: Read) -> None:
        """Starts to receive."""
        self._receive, self._read, self._frames = receive, read, 0
        self._waiting: asyncio.Queue[Arrival] = asyncio.Queue(MAX_WAITING)
        self._end: asyncio.Future[MutableMapping[str, Any]]
        self._end = asyncio.get_running_loop().create_future()
        self._task = asyncio.ensure_future(self._fill())

    @property
    def has_newer_frame(self) -> bool:
        """Whether a newer frame waits that makes the one in progress obsolete."""
        return self._frames > 0

    async def next(self) -> Arrival:
        """Returns the next message once those after it have had time to arrive."""
        arrival = await self._waiting.get()
        self._frames -= arrival.has_frame
        for _ in range(TURNS):
            await asyncio.sleep(0)
        return arrival

    async def watch(self) -> MutableMapping[str, Any]:
        """An ASGI receive channel that only returns the disconnection; safe to cancel."""
        return await asyncio.shield(self._end)

    def close(self) -> None:
        """Stops receiving."""
        self._task.cancel()
        self._end.cancel()

    async def _fill(self) -> None:
        while not self._end.done():
            arrival = Arrival(await self._receive(), self._read)
            if arrival.is_end:
                self._end.set_result(arrival.message)
            self._frames += arrival.has_frame
            await self._waiting.put(arrival)
