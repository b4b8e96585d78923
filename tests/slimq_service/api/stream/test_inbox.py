from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from slimq_service.api.stream.inbox import Inbox
from slimq_service.http.bodies import ClientGoneError, cancel_on_disconnect

GONE = {"type": "websocket.disconnect", "code": 1000}


class Channel:
    """An ASGI channel that counts how often it was asked."""

    def __init__(self, *messages: Any) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.asked = 0
        for message in messages:
            self.queue.put_nowait(message)

    async def receive(self) -> Any:
        self.asked += 1
        return await self.queue.get()


def message(number: int) -> dict[str, Any]:
    return {"type": "websocket.receive", "bytes": bytes([number])}


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 10))


async def answered(inbox: Inbox) -> int:
    """Watches the client while something takes its time."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[int] = loop.create_future()
    loop.call_later(0.02, waiting.set_result, 7)
    return await cancel_on_disconnect(inbox.watch, waiting)


def test_messages_are_received_in_order_and_only_on_demand() -> None:
    async def work() -> None:
        channel = Channel(message(1), message(2), GONE)
        inbox = Inbox(channel.receive)
        assert channel.asked == 0
        assert await inbox.next() == message(1)
        assert channel.asked == 1
        assert await inbox.next() == message(2)
        assert await inbox.next() == GONE

    run(work)


def test_one_message_sent_ahead_is_kept_and_no_more_received() -> None:
    async def work() -> None:
        channel = Channel(message(1), message(2), message(3), GONE)
        inbox = Inbox(channel.receive)
        assert await inbox.next() == message(1)
        for _ in range(3):
            assert await answered(inbox) == 7
        assert channel.asked == 2, "the rest stays with the server, and so with the client"
        assert [await inbox.next() for _ in range(3)] == [message(2), message(3), GONE]

    run(work)


def test_a_cancelled_watch_loses_no_message() -> None:
    async def work() -> None:
        channel = Channel(message(1))
        inbox = Inbox(channel.receive)
        await inbox.next()
        assert await answered(inbox) == 7
        channel.queue.put_nowait(message(2))
        assert await answered(inbox) == 7
        assert await inbox.next() == message(2)
        assert channel.asked == 2

    run(work)


def test_a_disconnection_is_noticed_and_is_the_next_message() -> None:
    async def work() -> None:
        inbox = Inbox(Channel(GONE).receive)
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        with pytest.raises(ClientGoneError):
            await cancel_on_disconnect(inbox.watch, waiting)
        assert await inbox.next() == GONE

    run(work)


def test_a_closed_inbox_receives_nothing_more() -> None:
    async def work() -> None:
        channel = Channel(message(1))
        inbox = Inbox(channel.receive)
        inbox.close()
        await inbox.next()
        await answered(inbox)
        inbox.close()
        await asyncio.sleep(0)
        channel.queue.put_nowait(message(2))
        await asyncio.sleep(0)
        assert channel.queue.qsize() == 1

    run(work)
