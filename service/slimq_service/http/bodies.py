"""Reads request bodies within their limits, with or without a Content-Length."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeVar

from slimq_service.errors import BodyTimeoutError, LimitError, MalformedError, MediaTypeError
from slimq_service.http.channel import Replay, receive_nowait

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
T = TypeVar("T")
Headers = Iterable[tuple[bytes, bytes]]

DISCONNECTIONS = ("http.disconnect", "websocket.disconnect")
MAX_DRAINED_BYTES = 64 * 1024
"""A rejected body up to this size is drained by the server, which keeps the connection alive."""
MAX_LENGTH_DIGITS = 18
"""Digits of a Content-Length."""


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete: no response is possible."""


def header(headers: Headers, name: bytes) -> bytes | None:
    """The value of the first header with this name (lower case), None if there is none."""
    for key, value in headers:
        if key == name:
            return value
    return None


def media_type(headers: Headers, supported: Iterable[str]) -> str:
    """The body's media type, lower case, without parameters.

    Raises:
        MediaTypeError: it is missing, or not one of `supported`.
    """
    value = header(headers, b"content-type")
    expected = " or ".join(supported)
    if value is None:
        raise MediaTypeError("Content-Type", expected, "no Content-Type")
    name = value.decode("latin-1")
    if name in supported:
        return name
    name = name.partition(";")[0].strip().lower()
    if name not in supported:
        raise MediaTypeError("Content-Type", expected, repr(name))
    return name


def parse_length(value: bytes) -> int | None:
    """Parses a Content-Length; None if it is not a valid number."""
    return int(value) if value.isdigit() and len(value) <= MAX_LENGTH_DIGITS else None


def is_long(headers: Headers) -> bool:
    """Whether an unread body is too long to drain, or of unknown length."""
    announced = parse_length(header(headers, b"content-length") or b"")
    return announced is None or announced > MAX_DRAINED_BYTES


async def read_body(receive: Receive, headers: Headers, limit: int, seconds: float) -> bytes:
    """Reads the whole body; bytes beyond the limit are never kept.

    Args:
        receive: the ASGI channel.
        headers: the request's, to reject an excessive Content-Length early.
        limit: maximum number of bytes.
        seconds: timeout for the whole body.

    Raises:
        LimitError: the announced or received length exceeds the limit.
        BodyTimeoutError: the body did not arrive in time.
        ClientGoneError: the client closed the connection.
        MalformedError: Content-Length is not a number.
    """
    announced = header(headers, b"content-length")
    if announced is not None:
        length = parse_length(announced)
        if length is None:
            received = announced.decode("latin-1")
            raise MalformedError("Content-Length", "a number of bytes", received)
        if length > limit:
            raise LimitError("body", limit, f"{length} bytes", "bytes")
    message, waiting = receive_nowait(receive)
    if message is not None and not message.get("more_body"):
        return _check(message, 0, limit)
    try:
        async with asyncio.timeout(seconds):
            return await _collect(Replay(message, waiting, receive), limit)
    except TimeoutError:
        raise BodyTimeoutError(seconds) from None


async def drain(receive: Receive, seconds: float) -> None:
    """Reads and discards the rest of a rejected body.

    Closing a connection with unread bytes resets it, and the client might never see the response.

    Args:
        receive: the ASGI channel.
        seconds: time after which the connection is closed regardless.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (await receive()).get("more_body", False):
                pass


async def cancel_on_disconnect(receive: Receive, waiting: asyncio.Future[T]) -> T:
    """Awaits a future on behalf of a request; cancels it if the client disconnects.

    The server never cancels an application whose client has disconnected, so it has to check.

    Args:
        receive: the ASGI channel, after the whole body was read, or a stream's equivalent.
        waiting: the future; cancelled unless it is done on return.

    Raises:
        ClientGoneError: the client closed the connection first.
    """
    watching = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait((waiting, watching), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            watching.result()
            raise ClientGoneError
        return waiting.result()
    finally:
        watching.cancel()
        waiting.cancel()


async def disconnected(receive: Receive) -> None:
    """Returns once the client has closed the connection; messages before that are dropped."""
    while (await receive())["type"] not in DISCONNECTIONS:
        await asyncio.sleep(0)


async def _collect(receive: Receive, limit: int) -> bytes:
    chunks: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        chunk = _check(message, length, limit)
        length += len(chunk)
        if not message.get("more_body", False):
            return b"".join([*chunks, chunk]) if chunks else chunk
        chunks.append(chunk)


def _check(message: MutableMapping[str, Any], before: int, limit: int) -> bytes:
    """The part of the body in a message, given the number of bytes received `before` it."""
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    chunk: bytes = message.get("body", b"")
    length = before + len(chunk)
    if length > limit:
        raise LimitError("body", limit, f"at least {length} bytes", "bytes")
    return chunk
