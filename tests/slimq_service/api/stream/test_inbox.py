from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from slimq.core.errors import InvalidInputError
from slimq_service.api.stream.codec import StreamMessage
from slimq_service.api.stream.inbox import MAX_WAITING, Arrival, Inbox, NewestInbox
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


def read(message: Any) -> StreamMessage:
    """A frame, unless the message is odd, which has none, or 255, which is invalid."""
    (number,) = message["bytes"]
    if number == 255:
        raise InvalidInputError("message", "less", "255")
    return StreamMessage(None if number % 2 else np.zeros((1, 4), np.float32))


async def taken(inbox: Inbox | NewestInbox) -> Any:
    return (await inbox.next()).message


def message(number: int) -> dict[str, Any]:
    return {"type": "websocket.receive", "bytes": bytes([number])}


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 10))


async def answered(inbox: Inbox | NewestInbox) -> int:
    """Watches the client while something takes its time."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[int] = loop.create_future()
    loop.call_later(0.02, waiting.set_result, 7)
    return await cancel_on_disconnect(inbox.watch, waiting)


def test_messages_are_received_in_order_and_only_on_demand() -> None:
    async def work() -> None:
        channel = Channel(message(1), message(2), GONE)
        inbox = Inbox(channel.receive, read)
        assert channel.asked == 0
        assert await taken(inbox) == message(1)
        assert channel.asked == 1
        assert await taken(inbox) == message(2)
        assert await taken(inbox) == GONE

    run(work)


def test_one_message_sent_ahead_is_kept_and_no_more_received() -> None:
    async def work() -> None:
        channel = Channel(message(1), message(2), message(3), GONE)
        inbox = Inbox(channel.receive, read)
        assert await taken(inbox) == message(1)
        for _ in range(3):
            assert await answered(inbox) == 7
        assert channel.asked == 2, "the rest stays with the server, and so with the client"
        assert [await taken(inbox) for _ in range(3)] == [message(2), message(3), GONE]

    run(work)


def test_a_cancelled_watch_loses_no_message() -> None:
    async def work() -> None:
        channel = Channel(message(1))
        inbox = Inbox(channel.receive, read)
        await taken(inbox)
        assert await answered(inbox) == 7
        channel.queue.put_nowait(message(2))
        assert await answered(inbox) == 7
        assert await taken(inbox) == message(2)
        assert channel.asked == 2

    run(work)


def test_a_disconnection_is_noticed_and_is_the_next_message() -> None:
    async def work() -> None:
        inbox = Inbox(Channel(GONE).receive, read)
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        with pytest.raises(ClientGoneError):
            await cancel_on_disconnect(inbox.watch, waiting)
        assert await taken(inbox) == GONE

    run(work)


def test_a_closed_inbox_receives_nothing_more() -> None:
    async def work() -> None:
        channel = Channel(message(1))
        inbox = Inbox(channel.receive, read)
        inbox.close()
        await taken(inbox)
        await answered(inbox)
        inbox.close()
        await asyncio.sleep(0)
        channel.queue.put_nowait(message(2))
        await asyncio.sleep(0)
        assert channel.queue.qsize() == 1

    run(work)


def test_a_message_is_parsed_once_and_its_error_is_kept() -> None:
    asked = []

    def count(message: Any) -> StreamMessage:
        asked.append(message)
        return read(message)

    good, bad, end = (Arrival(each, count) for each in (message(2), message(255), GONE))
    assert asked == []
    assert (good.has_frame, bad.has_frame, end.has_frame) == (True, False, False)
    assert good.parse() is good.parse()
    assert good.parsing > 0
    for _ in range(2):
        with pytest.raises(InvalidInputError, match="received 255"):
            bad.parse()
    assert len(asked) == 2
    assert (good.is_end, end.is_end) == (False, True)


def test_the_newest_inbox_knows_of_frames_that_wait_and_of_nothing_else() -> None:
    async def work() -> None:
        channel = Channel(*map(message, (2, 4, 255, 6, 1)))
        inbox = NewestInbox(channel.receive, read)
        seen = [(await taken(inbox), inbox.has_newer_frame) for _ in range(5)]
        numbers = [each["bytes"][0] for each, _ in seen]
        assert numbers == [2, 4, 255, 6, 1]
        assert [newer for _, newer in seen] == [True, True, True, False, False]
        channel.queue.put_nowait(GONE)
        assert await taken(inbox) == GONE
        inbox.close()

    run(work)


def test_the_newest_inbox_receives_a_limited_number_ahead() -> None:
    async def work() -> None:
        channel = Channel(*[message(2)] * 100)
        inbox = NewestInbox(channel.receive, read)
        await taken(inbox)
        for _ in range(20):
            await asyncio.sleep(0)
        assert channel.asked == MAX_WAITING + 2, "one is taken, one waits for room"
        for n in range(99):
            assert inbox.has_newer_frame, n
            await taken(inbox)
        assert not inbox.has_newer_frame
        inbox.close()

    run(work)


def test_the_newest_inbox_notices_a_disconnection_behind_messages() -> None:
    async def work() -> None:
        inbox = NewestInbox(Channel(message(2), message(4), GONE).receive, read)
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        with pytest.raises(ClientGoneError):
            await cancel_on_disconnect(inbox.watch, waiting)
        assert [await taken(inbox) for _ in range(3)] == [message(2), message(4), GONE]
        inbox.close()

    run(work)


def test_a_cancelled_watch_of_the_newest_inbox_changes_nothing() -> None:
    async def work() -> None:
        channel = Channel(message(2))
        inbox = NewestInbox(channel.receive, read)
        for _ in range(2):
            assert await answered(inbox) == 7
        channel.queue.put_nowait(GONE)
        assert (await inbox.watch()) == GONE
        inbox.close()
        inbox.close()

    run(work)


def test_a_closed_newest_inbox_receives_nothing_more() -> None:
    async def work() -> None:
        channel = Channel()
        inbox = NewestInbox(channel.receive, read)
        await asyncio.sleep(0)
        inbox.close()
        await asyncio.sleep(0)
        channel.queue.put_nowait(message(2))
        await asyncio.sleep(0)
        assert channel.queue.qsize() == 1

    run(work)
