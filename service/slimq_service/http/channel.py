"""Receives a request's first message without waiting, and replays it to later readers."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from starlette.types import Message, Receive


class PendingReceive:
    """A started coroutine that is suspended on a future; awaiting this resumes it."""

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
    """A request's channel with an already received (or pending) message put back in front."""

    def __init__(
        self, message: Message | None, waiting: PendingReceive | None, receive: Receive
    ) -> None:
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


def receive_nowait(receive: Receive) -> tuple[Message | None, PendingReceive | None]:
    """The next message if it is available, otherwise the pending receive."""
    coroutine: Any = receive()
    try:
        future = coroutine.send(None)
    except StopIteration as done:
        return done.value, None
    return None, PendingReceive(coroutine, future)
