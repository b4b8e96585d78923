"""Incoming messages of a WebSocket, one at a time and in order."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from starlette.types import Receive

DISCONNECT = "websocket.disconnect"


class Inbox:
    """Receives a message only on demand, so that the server does not read ahead.

    While a message is processed, `watch` waits for the client to disconnect. If it receives another
    message instead, that one is kept for `next`, and no more are received before it.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._taken: asyncio.Future[MutableMapping[str, Any]] | None = None

    async def next(self) -> MutableMapping[str, Any]:
        """Returns the next message; the last one is the disconnection."""
        if self._taken is None:
            return await self._receive()
        message = await self._taken
        self._taken = None
        return message

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
