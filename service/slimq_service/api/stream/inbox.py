"""The messages of a WebSocket, one at a time and in order."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from starlette.types import Receive

DISCONNECT = "websocket.disconnect"


class Inbox:
    """Takes the next message when it is asked for, so that the server reads no further than that.

    While a message is being answered, `watch` looks out for the client's going. What it finds
    instead was sent ahead: that is kept for `next`, and nothing more is taken before it.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._taken: asyncio.Future[MutableMapping[str, Any]] | None = None

    async def next(self) -> MutableMapping[str, Any]:
        """The next message, the disconnection at the last."""
        if self._taken is None:
            return await self._receive()
        message = await self._taken
        self._taken = None
        return message

    async def watch(self) -> MutableMapping[str, Any]:
        """An ASGI channel that gives nothing but the disconnection, and may be cancelled."""
        if self._taken is None:
            self._taken = asyncio.ensure_future(self._receive())
        await asyncio.wait([self._taken])  # which cancels nothing where it is cancelled itself
        message = self._taken.result()
        if message["type"] != DISCONNECT:
            await asyncio.get_running_loop().create_future()
        return message

    def close(self) -> None:
        """Takes no more messages."""
        if self._taken is not None:
            self._taken.cancel()
