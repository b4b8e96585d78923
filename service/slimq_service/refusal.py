"""Answers requests that get no further than a layer around the application."""

from __future__ import annotations

from dataclasses import replace

from starlette.types import Receive, Scope, Send

from slimq_service.answers import Answer, problem_answer, send_last
from slimq_service.bodies import header, is_long
from slimq_service.oip.errors import error_answer, is_protocol
from slimq_service.problems import Problem
from slimq_service.stream.refusal import deny


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    problem: Problem,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> None:
    """Answers a request, or the request for a WebSocket, with what is wrong with it.

    Args:
        scope: the request's.
        receive: its ASGI channel, from which nothing was taken.
        send: where the answer goes.
        problem: what is wrong; it is worded as the path's other errors are.
        headers: further headers of the answer.
    """
    answer = replace(worded(scope["path"], problem), headers=headers)
    if scope["type"] == "websocket":
        await receive()
        await deny(scope, receive, send, answer, problem["code"])
        return
    close = _has_body(scope) and is_long(scope["headers"])
    await send_last(receive, send, answer, close=close)


def worded(path: str, problem: Problem) -> Answer:
    """What is wrong with a request, as the other errors of its path are worded."""
    return error_answer(problem) if is_protocol(path) else problem_answer(problem)


def is_inner(scope: Scope) -> bool:
    """Whether a request came by a socket in the file system, from another worker of the service."""
    name, port = scope.get("server") or ("", 0)
    return port is None and str(name).startswith("/")


def _has_body(scope: Scope) -> bool:
    return any(header(scope["headers"], n) for n in (b"content-length", b"transfer-encoding"))
