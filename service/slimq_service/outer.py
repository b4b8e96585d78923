"""What lies around the application: layers that every request goes through, and their refusals.

A middleware that FastAPI is told of sits inside of its handling of mistakes, so that it sees no
answer to one, and behind the front. These layers see every request and every answer.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from slimq_service import act
from slimq_service.answers import Answer
from slimq_service.bodies import drain, header, is_long
from slimq_service.hot import DRAIN_SECONDS
from slimq_service.oip import errors as oip
from slimq_service.problems import Problem

Layer = Callable[[ASGIApp], ASGIApp]
DENIAL = "websocket.http.response"
POLICY_VIOLATION = 1008
"""The code with which a WebSocket is closed that may not be opened (RFC 6455, section 7.4.1)."""


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    problem: Problem,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> None:
    """Answers a request, or a WebSocket that is about to open, that goes no further.

    Args:
        scope: the request's.
        receive: its ASGI channel.
        send: where the answer goes.
        problem: what is wrong, worded as the path's other errors are.
        headers: further headers of the answer.
    """
    answer = (oip if oip.is_protocol(scope["path"]) else act).refuse(problem)
    if scope["type"] == "websocket" and DENIAL not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        return
    prefix = "http.response" if scope["type"] == "http" else DENIAL
    close = scope["type"] == "http" and _has_body(scope) and is_long(scope["headers"])
    start = {"type": f"{prefix}.start", "status": answer.status}
    await send({**start, "headers": _headers(answer, headers, close=close)})
    await send({"type": f"{prefix}.body", "body": answer.body, "more_body": close})
    if close:
        await drain(receive, DRAIN_SECONDS)
        await send({"type": f"{prefix}.body", "body": b""})


def _has_body(scope: Scope) -> bool:
    return any(header(scope["headers"], n) for n in (b"content-length", b"transfer-encoding"))


def _headers(
    answer: Answer, further: tuple[tuple[bytes, bytes], ...], *, close: bool
) -> list[tuple[bytes, bytes]]:
    length = (b"content-length", str(len(answer.body)).encode())
    headers = [(b"content-type", answer.media_type), length, *answer.headers, *further]
    return [*headers, (b"connection", b"close")] if close else headers
