"""HTTP responses to requests for streams that are refused before the WebSocket is accepted."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from slimq_service.http.problems import Problem, no_such_path
from slimq_service.http.responses import problem_response
from slimq_service.http.websocket_denial import deny
from slimq_service.metrics.service import Metrics


async def refuse_stream(scope: Scope, receive: Receive, send: Send, problem: Problem) -> None:
    """Refuses a stream with a problem document, or with 403 if the server cannot send one.

    Args:
        scope: the request's scope.
        receive: its ASGI receive channel, after `websocket.connect`.
        send: its ASGI send channel.
        problem: the reason.
    """
    await deny(scope, receive, send, problem_response(problem), problem["code"])


class NoStream:
    """Refuses WebSockets at paths without a stream."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses one request."""
        await receive()
        path = scope["path"]
        detail = f"no stream at {path!r}; see /docs"
        problem = no_such_path(path, detail)
        self._metrics.http_error(problem["code"])
        await refuse_stream(scope, receive, send, problem)


async def require_upgrade(request: Request) -> None:  # noqa: ARG001
    """Answers a plain request at a stream's path with 426."""
    raise HTTPException(426, headers={"Upgrade": "websocket", "Connection": "Upgrade"})
