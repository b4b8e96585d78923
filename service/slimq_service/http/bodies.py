"""Reads a request's body within its limits, whether or not its length was announced."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeVar

from slimq_service.errors import BodyTimeoutError, LimitError, MalformedError, MediaTypeError
from slimq_service.http.channel import Replay, take

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
T = TypeVar("T")
Headers = Iterable[tuple[bytes, bytes]]

DISCONNECTIONS = ("http.disconnect", "websocket.disconnect")
DRAINED_BYTES = 64 * 1024
"""A refused body up to this length is left to the server, so that the connection can be kept."""
LONGEST_NUMBER = 18
"""Digits of a length."""


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete: nobody to answer."""


def header(headers: Headers, name: bytes) -> bytes | None:
    """The first header of this lower-case name."""
    for key, value in headers:
        if key == name:
            return value
    return None


def media_type(headers: Headers, supported: Iterable[str]) -> str:
    """The body's media type, lower case, without parameters.

    Raises:
        MediaTypeError: none is given, or it is not one of `supported`.
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


def number_of(value: bytes) -> int | None:
    """The length that a header says, None where it is no such number."""
    return int(value) if value.isdigit() and len(value) <= LONGEST_NUMBER else None


def is_long(headers: Headers) -> bool:
    """Whether a body that nobody reads is better cut off than drained."""
    announced = number_of(header(headers, b"content-length") or b"")
    return announced is None or announced > DRAINED_BYTES


async def read_body(receive: Receive, headers: Headers, limit: int, seconds: float) -> bytes:
    """The whole body; what goes over the limit is never kept.

    Args:
        receive: the ASGI channel.
        headers: the request's, to refuse an announced length early.
        limit: most bytes.
        seconds: time in which it must arrive.

    Raises:
        LimitError: the announced or the received length is over the limit.
        BodyTimeoutError: it did not arrive in time.
        ClientGoneError: the client closed the connection.
        MalformedError: Content-Length is not a number.
    """
    body, rest = take_body(receive, headers, limit)
    return await collect(rest, limit, seconds) if body is None else body


def take_body(receive: Receive, headers: Headers, limit: int) -> tuple[bytes | None, Receive]:
    """The whole body if it has arrived already, or else None and the channel to `collect` it from.

    Raises:
        SlimqError: see `read_body`.
    """
    announced = header(headers, b"content-length")
    if announced is not None:
        length = number_of(announced)
        if length is None:
            received = announced.decode("latin-1")
            raise MalformedError("Content-Length", "a number of bytes", received)
        if length > limit:
            raise LimitError("body", limit, f"{length} bytes", "bytes")
    message, waiting = take(receive)
    if message is not None and not message.get("more_body"):
        return _check(message, 0, limit), receive
    return None, Replay(message, waiting, receive)


async def collect(receive: Receive, limit: int, seconds: float) -> bytes:
    """The whole body from the channel that `take_body` returned.

    Raises:
        SlimqError: see `read_body`.
    """
    try:
        async with asyncio.timeout(seconds):
            return await _collect(receive, limit)
    except TimeoutError:
        raise BodyTimeoutError(seconds) from None


async def drain(receive: Receive, seconds: float) -> None:
    """Reads what still arrives of a refused body and keeps nothing of it.

    Closing a connection with unread bytes resets it, and the client might never see the answer.

    Args:
        receive: the ASGI channel.
        seconds: time after which the client is cut off all the same.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (await receive()).get("more_body", False):
                pass


async def unless_gone(receive: Receive, waiting: asyncio.Future[T]) -> T:
    """What a request waits for; it is given up where the client does not wait for it.

    The server never cancels an application whose client has gone: one has to look.

    Args:
        receive: the ASGI channel, once the whole body was read, or what watches that of a stream.
        waiting: what is waited for; cancelled unless it is done by the end.

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
    """The part of a body in a message, where as many bytes came `before`."""
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    chunk: bytes = message.get("body", b"")
    length = before + len(chunk)
    if length > limit:
        raise LimitError("body", limit, f"{length} bytes and perhaps more", "bytes")
    return chunk
