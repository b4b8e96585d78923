from __future__ import annotations

import asyncio
from typing import Any

import pytest

from slimq_service.errors import BodyTimeoutError, LimitError, MalformedError, MediaTypeError
from slimq_service.http.bodies import (
    ClientGoneError,
    cancel_on_disconnect,
    drain,
    is_long,
    media_type,
    read_body,
)

TYPES = ("application/json", "application/octet-stream")


def read(messages: list[dict[str, Any]], headers: Any = (), limit: int = 10) -> bytes:
    async def receive() -> Any:
        if not messages:
            await asyncio.sleep(60)
        return messages.pop(0)

    return asyncio.run(read_body(receive, headers, limit, 0.05))


def part(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_parts_are_joined() -> None:
    assert read([part(b"abc"), part(b"def"), part(b"", more=False)]) == b"abcdef"


def test_an_announced_length_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(LimitError, match="at most 10 bytes, received 11 bytes"):
        read([], [(b"content-length", b"11")])


def test_a_length_that_was_not_announced_is_refused_when_it_is_reached() -> None:
    messages = [part(b"x" * 6), part(b"x" * 6), part(b"never read")]
    with pytest.raises(LimitError, match="at least 12 bytes"):
        read(messages)
    assert len(messages) == 1


@pytest.mark.parametrize("value", [b"-1", b"ten", b"", b"9" * 5000, b"\xb2"])
def test_an_impossible_length_is_refused(value: bytes) -> None:
    with pytest.raises(MalformedError, match="Content-Length"):
        read([], [(b"content-length", value)])


def test_a_body_that_does_not_arrive_in_time_is_given_up() -> None:
    with pytest.raises(BodyTimeoutError, match=r"within 0\.05 s"):
        read([part(b"a")])


def test_what_is_left_of_a_refused_body_is_read_until_it_ends_or_time_is_up() -> None:
    messages = [part(b"a"), part(b"b", more=False), part(b"next request")]

    async def receive() -> Any:
        return messages.pop(0) if messages else await asyncio.sleep(60)

    asyncio.run(drain(receive, 0.05))
    assert len(messages) == 1
    messages.clear()
    asyncio.run(drain(receive, 0.05))


def test_a_client_that_goes_away_is_noticed() -> None:
    with pytest.raises(ClientGoneError):
        read([part(b"a"), {"type": "http.disconnect"}])


def test_media_types_ignore_case_and_parameters() -> None:
    headers = [(b"content-type", b"Application/JSON; charset=utf-8")]
    assert media_type(headers, TYPES) == "application/json"


@pytest.mark.parametrize(
    ("headers", "received"),
    [
        ([], "no Content-Type"),
        ([(b"content-type", b"text/plain")], "'text/plain'"),
        ([(b"content-type", b"\xff\xfe")], "received"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(headers: Any, received: str) -> None:
    with pytest.raises(MediaTypeError, match=received):
        media_type(headers, TYPES)


@pytest.mark.parametrize(
    ("headers", "long"),
    [
        ([], True),
        ([(b"content-length", b"9" * 99)], True),
        ([(b"content-length", b"100000")], True),
        ([(b"content-length", b"100")], False),
    ],
)
def test_only_short_refused_bodies_are_drained(headers: Any, long: bool) -> None:
    assert is_long(headers) is long


@pytest.mark.parametrize("kind", ["http.disconnect", "websocket.disconnect"])
def test_what_is_waited_for_is_given_up_where_the_client_goes(kind: str) -> None:
    async def receive() -> Any:
        return {"type": kind}

    async def run() -> None:
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        with pytest.raises(ClientGoneError):
            await cancel_on_disconnect(receive, waiting)
        assert waiting.cancelled()

    asyncio.run(run())


def test_what_is_waited_for_comes_while_the_client_stays() -> None:
    messages = [part(b"", more=False)]
    watched: list[str] = []

    async def receive() -> Any:
        if messages:
            return messages.pop()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            watched.append("no longer")
            raise

    async def run() -> None:
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.02, waiting.set_result, 7)
        assert await cancel_on_disconnect(receive, waiting) == 7
        await asyncio.sleep(0)

    asyncio.run(run())
    assert watched == ["no longer"]


def test_a_channel_that_fails_is_no_client_that_has_gone() -> None:
    async def receive() -> Any:
        raise ConnectionError("broken")

    async def run() -> None:
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        with pytest.raises(ConnectionError, match="broken"):
            await cancel_on_disconnect(receive, waiting)

    asyncio.run(run())
