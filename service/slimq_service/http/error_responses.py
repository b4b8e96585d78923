"""Errors in the format of their path: a problem document, or the protocol's own under `/v2`.

`refuse` answers requests that get no further than a layer around the application.
"""

from __future__ import annotations

import orjson
from starlette.types import Receive, Scope, Send

from slimq_service.http.bodies import header, is_long
from slimq_service.http.problems import Problem
from slimq_service.http.responses import (
    JSON,
    Response,
    problem_response,
    retry_header,
    send_and_drain,
)
from slimq_service.http.websocket_denial import deny

V2_PREFIX = "/v2"
V2_STATUSES = {415: 400, 422: 400}
"""The protocol has one status for every request that is wrong in itself."""


def is_v2(path: str) -> bool:
    """Whether a path is the Open Inference Protocol's."""
    return path == V2_PREFIX or path.startswith(V2_PREFIX + "/")


def v2_error(problem: Problem) -> Response:
    """The protocol's form of an error: `{"error": "..."}`, with a status that its clients know."""
    status: int = problem["status"]
    status = V2_STATUSES.get(status, status)
    body = orjson.dumps({"error": problem["detail"]})
    return Response(status, JSON, body, retry_header(problem))


def error_response(path: str, problem: Problem) -> Response:
    """An error in the format that a path has."""
    return v2_error(problem) if is_v2(path) else problem_response(problem)


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    problem: Problem,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> None:
    """Responses a request, or the request for a WebSocket, with what is wrong with it.

    Args:
        scope: the request's.
        receive: its ASGI channel, from which nothing was taken.
        send: where the response goes.
        problem: what is wrong.
        headers: further headers of the answer.
    """
    response = error_response(scope["path"], problem)
    response = response._replace(headers=(*response.headers, *headers))
    if scope["type"] == "websocket":
        await receive()
        await deny(scope, receive, send, response, problem["code"])
        return
    close = _has_body(scope) and is_long(scope["headers"])
    await send_and_drain(receive, send, response, close=close)


def _has_body(scope: Scope) -> bool:
    return any(header(scope["headers"], n) for n in (b"content-length", b"transfer-encoding"))
