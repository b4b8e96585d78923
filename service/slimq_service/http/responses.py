"""Responses of the endpoints that are bare ASGI applications, and how they are sent."""

from __future__ import annotations

from typing import NamedTuple

from starlette.types import Message, Receive, Send

from slimq_service.http.bodies import drain
from slimq_service.http.problems import MEDIA_TYPE, Problem, render

DRAIN_SECONDS = 1.0
"""How long a client may go on sending a body that is already refused."""
JSON = b"application/json"
PROBLEM = MEDIA_TYPE.encode()

WHOLE_RESPONSES = "slimq.whole_responses"
"""ASGI extension of servers that take a response in one message: a start with its `body`."""

RawHeaders = tuple[tuple[bytes, bytes], ...]


class Response(NamedTuple):
    """A whole response; `content-length` is added when it is sent."""

    status: int
    media_type: bytes
    body: bytes
    headers: RawHeaders = ()


def problem_response(problem: Problem) -> Response:
    """A problem document as the response."""
    return Response(problem["status"], PROBLEM, render(problem), retry_header(problem))


def retry_header(problem: Problem) -> RawHeaders:
    """`Retry-After` where the problem says when to try again."""
    seconds = problem.get("retry_after")
    return () if seconds is None else ((b"retry-after", b"%d" % seconds),)


async def send_response(
    send: Send,
    response: Response,
    *,
    close: bool = False,
    kind: str = "http.response",
) -> None:
    """Sends a response; where the connection is to close after it, an empty part must follow.

    Args:
        send: the ASGI channel.
        response: what to send.
        close: whether the connection is to close.
        kind: prefix of the ASGI messages' types.
    """
    await send(start_message(response, close=close, kind=kind))
    await send({"type": f"{kind}.body", "body": response.body, "more_body": close})


def start_message(
    response: Response, *, close: bool = False, kind: str = "http.response"
) -> Message:
    """The ASGI message that starts a response; for the arguments see `send_response`."""
    headers = [
        (b"content-type", response.media_type),
        (b"content-length", b"%d" % len(response.body)),
        *response.headers,
    ]
    if close:
        headers.append((b"connection", b"close"))
    return {"type": f"{kind}.start", "status": response.status, "headers": headers}


async def send_and_drain(receive: Receive, send: Send, response: Response, *, close: bool) -> None:
    """Sends a response; where the connection closes, once the client has had time to read it.

    Args:
        receive: the ASGI channel of the request.
        send: that of the response.
        response: what to send.
        close: whether the rest of the body is dropped with the connection.
    """
    await send_response(send, response, close=close)
    if close:
        await drain(receive, DRAIN_SECONDS)
        await send({"type": "http.response.body", "body": b""})
