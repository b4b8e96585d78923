"""Responses of the endpoints that are plain ASGI applications, and functions to send them."""

from __future__ import annotations

from typing import NamedTuple

from starlette.types import Message, Receive, Send

from slimq_service.http.bodies import drain
from slimq_service.http.problems import MEDIA_TYPE, Problem, render

DRAIN_SECONDS = 1.0
"""How long the rest of a rejected body is read."""
JSON = b"application/json"
PROBLEM = MEDIA_TYPE.encode()

WHOLE_RESPONSES = "slimq.whole_responses"
"""ASGI extension of servers that accept a response as one message: a start with its `body`."""

RawHeaders = tuple[tuple[bytes, bytes], ...]


class Response(NamedTuple):
    """A complete response; `content-length` is added when it is sent."""

    status: int
    media_type: bytes
    body: bytes
    headers: RawHeaders = ()


def problem_response(problem: Problem) -> Response:
    """The response with a problem document."""
    return Response(problem["status"], PROBLEM, render(problem), retry_header(problem))


def retry_header(problem: Problem) -> RawHeaders:
    """`Retry-After`, if the problem says when to try again."""
    seconds = problem.get("retry_after")
    return () if seconds is None else ((b"retry-after", b"%d" % seconds),)


async def send_response(
    send: Send,
    response: Response,
    *,
    close: bool = False,
    kind: str = "http.response",
) -> None:
    """Sends a response; with `close`, the caller must send an empty final part afterwards.

    Args:
        send: the ASGI channel.
        response: the response.
        close: whether to close the connection.
        kind: prefix of the types of the ASGI messages.
    """
    await send(start_message(response, close=close, kind=kind))
    await send({"type": f"{kind}.body", "body": response.body, "more_body": close})


def start_message(
    response: Response, *, close: bool = False, kind: str = "http.response"
) -> Message:
    """The ASGI message that starts a response; see `send_response` for the arguments."""
    headers = [
        (b"content-type", response.media_type),
        (b"content-length", b"%d" % len(response.body)),
        *response.headers,
    ]
    if close:
        headers.append((b"connection", b"close"))
    return {"type": f"{kind}.start", "status": response.status, "headers": headers}


async def send_and_drain(receive: Receive, send: Send, response: Response, *, close: bool) -> None:
    """Sends a response, with `close` as `send_response` and `drain_and_close`."""
    await send_response(send, response, close=close)
    if close:
        await drain_and_close(receive, send)


async def drain_and_close(receive: Receive, send: Send) -> None:
    """Closes the connection after a response, having given the client time to read that.

    Args:
        receive: the ASGI channel of the request, the rest of whose body is discarded.
        send: the ASGI channel of the response, which was sent with `close`.
    """
    await drain(receive, DRAIN_SECONDS)
    await send({"type": "http.response.body", "body": b""})
