"""Error responses: problem documents, or the Open Inference Protocol's format under `/v2`.

`refuse` rejects requests in middleware.
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
"""The protocol has a single status for all invalid requests."""


def is_v2(path: str) -> bool:
    """Whether a path belongs to the Open Inference Protocol."""
    return path == V2_PREFIX or path.startswith(V2_PREFIX + "/")


def v2_error(problem: Problem) -> Response:
    """The protocol's error response: `{"error": "..."}`, with a status defined by the protocol."""
    status: int = problem["status"]
    status = V2_STATUSES.get(status, status)
    body = orjson.dumps({"error": problem["detail"]})
    return Response(status, JSON, body, retry_header(problem))


def error_response(path: str, problem: Problem) -> Response:
    """The error response in the format of a path."""
    return v2_error(problem) if is_v2(path) else problem_response(problem)


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    problem: Problem,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> None:
    """Rejects a request or a WebSocket handshake with an error response.

    Args:
        scope: the request's.
        receive: its ASGI channel, from which nothing has been received yet.
        send: the ASGI channel of the response.
        problem: the problem document.
        headers: additional headers of the response.
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
