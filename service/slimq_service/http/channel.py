"""The first message of a request without waiting for it, and the rest of its channel after that."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from starlette.types import Message, Receive


class Waiting:
    """A coroutine that has begun and waits for a future; whoever awaits this goes on with it."""

    def __init__(self, coroutine: Any, future: Any) -> None:
        self._coroutine, self._future = coroutine, future

    def __await__(self) -> Generator[Any, Any, Message]:
        try:
            yield self._future
        except BaseException as error:
            self._coroutine.throw(error)
            raise
        message: Message = yield from self._coroutine.__await__()
        return message


class Replay:
    """The rest of a request's channel, the message that was taken from it first."""

    def __init__(self, message: Message | None, waiting: Waiting | None, receive: Receive) -> None:
        self._message, self._waiting, self._receive = message, waiting, receive

    async def __call__(self) -> Message:
        """The next message."""
        if self._message is not None:
            message, self._message = self._message, None
            return message
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            return await waiting
        return await self._receive()


def take(receive: Receive) -> tuple[Message | None, Waiting | None]:
    """The next message if it is there already, or else the wait for it."""
    coroutine: Any = receive()
    try:
        future = coroutine.send(None)
    except StopIteration as done:
        return done.value, None
    return None, Waiting(coroutine, future)
