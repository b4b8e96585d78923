"""A request and its response, without a socket: what is written, and in how many pieces."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from slimq_service.server.uvicorn_adapter.cycle import MAX_JOINED_BYTES, Cycle

DATE = [(b"date", b"today")]
START = {"type": "http.response.start", "status": 200}
BODY = {"type": "http.response.body"}
OK = b"HTTP/1.1 200 OK\r\ndate: today\r\n"


class Transport:
    """Remembers what is written, one item for each call, and whether it was closed."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def exchange(
    app: Any, *parts: bytes, method: str = "POST", version: str = "1.1", **options: Any
) -> Transport:
    """Runs an application on a request with a body in parts; one part arrives per turn."""

    async def run() -> Transport:
        transport, completed = Transport(), []
        flow = FlowControl(transport)  # type: ignore[arg-type]
        settings = {"keep_alive": True, "continue_expected": False} | options
        scope = {"type": "http", "method": method, "http_version": version}
        done = completed.append
        cycle = Cycle(scope, transport, flow, DATE, lambda: done(True), **settings)
        task = asyncio.ensure_future(cycle.run(app))
        for part in parts:
            await asyncio.sleep(0)
            cycle.add(part)
        await asyncio.sleep(0)
        cycle.more_body = False
        cycle.set()
        await task
        assert cycle.response_complete == bool(completed)
        return transport

    return asyncio.run(run())


def answer(*messages: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def test_a_whole_response_is_written_at_once() -> None:
    start = {**START, "headers": [(b"content-length", b"3")]}
    expected = [OK + b"content-length: 3\r\n\r\nabc"]
    assert exchange(answer(start, {**BODY, "body": b"abc"})).written == expected
    assert exchange(answer({**start, "body": b"abc"})).written == expected


def test_the_head_goes_out_with_the_first_part_of_the_body_and_not_before() -> None:
    length = {**START, "headers": [(b"content-length", b"4")]}
    parts = ({**BODY, "body": b"ab", "more_body": True}, {**BODY, "body": b"cd"})
    assert exchange(answer(length, *parts)).written == [
        OK + b"content-length: 4\r\n\r\nab",
        b"cd",
    ]
    assert exchange(answer(START, *parts)).written == [
        OK + b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"2\r\ncd\r\n0\r\n\r\n",
    ]


def test_responses_without_a_body_have_none() -> None:
    head = exchange(
        answer({**START, "headers": [(b"content-length", b"3")]}, {**BODY, "body": b"abc"}),
        method="HEAD",
    )
    assert head.written == [OK + b"content-length: 3\r\n\r\n"]
    empty = exchange(answer({**START, "status": 204}, BODY))
    assert empty.written == [b"HTTP/1.1 204 No Content\r\ndate: today\r\n\r\n"]


@pytest.mark.parametrize("options", [{"keep_alive": False}, {"more": [(b"Connection", b"Close")]}])
def test_a_connection_that_closes_says_so_once(options: Any) -> None:
    start = {**START, "headers": [(b"content-length", b"0"), *options.pop("more", [])]}
    closed = exchange(answer(start, BODY), **options)
    assert closed.closed
    assert closed.written == [OK + b"content-length: 0\r\nconnection: close\r\n\r\n"]


def test_a_body_is_received_as_it_arrived() -> None:
    received: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not received or received[-1]["more_body"]:
            received.append(await receive())
        await send({**START, "body": b""})
        received.append(await receive())

    exchange(app, b"ab", b"cd")
    assert b"".join(message["body"] for message in received[:-1]) == b"abcd"
    assert received[-1] == {"type": "http.disconnect"}


def end_input(receive_before: bool, more_body: bool) -> tuple[list[str], list[bytes]]:
    """Types of the messages received, and what is written, when the client's side closes."""
    received: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        received.extend([(await receive())["type"] for _ in range(2)])
        await send({**START, "headers": [(b"content-length", b"0")], "body": b""})

    async def run() -> list[bytes]:
        transport: Any = Transport()
        cycle = Cycle({"method": "POST"}, transport, FlowControl(transport), [], bool, True, False)
        cycle.more_body = more_body
        cycle.add(b"ab")
        task = asyncio.ensure_future(cycle.run(app))
        if receive_before:
            await asyncio.sleep(0)
        cycle.end_input()
        await asyncio.wait_for(task, 5)
        return transport.written

    written = asyncio.run(run())
    return received, written


@pytest.mark.parametrize("receive_before", [False, True])
def test_a_client_that_sends_no_more_is_answered(receive_before: bool) -> None:
    received, written = end_input(receive_before, more_body=False)
    assert received == ["http.request", "http.disconnect"]
    assert written == [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]


def test_an_incomplete_request_is_not_answered() -> None:
    for receive_before in (False, True):
        received, written = end_input(receive_before, more_body=True)
        assert received[-1] == "http.disconnect"
        assert written == []


def test_a_client_that_waits_is_told_to_go_on_when_the_body_is_wanted() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({**START, "headers": [(b"content-length", b"0")], "body": b""})

    written = exchange(app, b"x", continue_expected=True).written
    assert written[0] == b"HTTP/1.1 100 Continue\r\n\r\n"
    refused = exchange(answer({**START, "body": b""}), continue_expected=True).written
    assert not refused[0].startswith(b"HTTP/1.1 100")


def fail_after(*messages: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(*messages)(scope, receive, send)
        raise ZeroDivisionError

    return app


@pytest.mark.parametrize("app", [fail_after(), fail_after(START), answer(START), answer()])
def test_an_application_that_fails_before_its_body_is_answered_with_500(app: Any) -> None:
    failed = exchange(app)
    (written,) = failed.written
    assert written.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert written.endswith(b"connection: close\r\n\r\nInternal Server Error")
    assert failed.closed


@pytest.mark.parametrize("more", [(), ({**BODY, "body": b"12345"},), ({**BODY, "body": b"1"},)])
def test_a_response_that_is_cut_short_or_too_long_closes_the_connection(more: Any) -> None:
    start = {**START, "headers": [(b"content-length", b"4")]}
    cut = exchange(answer(start, {**BODY, "body": b"ab", "more_body": True}, *more))
    assert cut.written == [OK + b"content-length: 4\r\n\r\nab"]
    assert cut.closed


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\0b", b"a\x7fb"])
@pytest.mark.parametrize("in_name", [False, True])
def test_a_header_cannot_end_itself(value: bytes, in_name: bool) -> None:
    header = (value, b"x") if in_name else (b"x-name", value)
    (written,) = exchange(answer({**START, "headers": [header]}, BODY)).written
    assert written.startswith(b"HTTP/1.1 500 ")
    assert b"x-name" not in written
    assert b"set-cookie" not in written


@pytest.mark.parametrize("name", [b"x y", b"x:y"])
def test_a_header_has_a_valid_name(name: bytes) -> None:
    (written,) = exchange(answer({**START, "headers": [(name, b"z")]}, BODY)).written
    assert written.startswith(b"HTTP/1.1 500 ")


def test_a_client_of_http_1_0_gets_no_chunks() -> None:
    parts = ({**BODY, "body": b"ab", "more_body": True}, {**BODY, "body": b"cd"})
    old = exchange(answer(START, *parts), version="1.0", keep_alive=False)
    assert old.written == [OK + b"connection: close\r\n\r\nab", b"cd"]
    assert old.closed


def test_a_body_that_was_asked_leave_for_and_is_not_wanted_ends_the_connection() -> None:
    start = {**START, "headers": [(b"content-length", b"0")], "body": b""}
    refused = exchange(answer(start), b"x", continue_expected=True)
    assert refused.written == [OK + b"content-length: 0\r\nconnection: close\r\n\r\n"]
    assert refused.closed


def test_a_long_body_is_not_copied() -> None:
    body = bytes(MAX_JOINED_BYTES + 1)
    head, rest = exchange(answer({**START, "body": body})).written
    assert head.endswith(b"\r\n\r\n")
    assert body in rest


def test_who_stops_waiting_for_a_body_does_not_stop_others() -> None:
    async def run() -> Any:
        transport: Any = Transport()
        cycle = Cycle({}, transport, FlowControl(transport), DATE, lambda: None, True, False)
        first, second = (asyncio.ensure_future(cycle.receive()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        cycle.add(b"ab")
        return (await second)["body"]

    assert asyncio.run(run()) == b"ab"


def test_messages_out_of_order_are_errors() -> None:
    assert exchange(answer(BODY)).written[0].startswith(b"HTTP/1.1 500 ")
    whole = {**START, "headers": [(b"content-length", b"0")], "body": b""}
    assert exchange(answer(whole, BODY)).written == [OK + b"content-length: 0\r\n\r\n"]
