"""What is answered instead of a stream: HTTP, before the WebSocket is accepted."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from slimq_service.http.problems import Problem, no_such_path
from slimq_service.http.responses import problem_response
from slimq_service.http.websocket_denial import deny
from slimq_service.metrics.service import Metrics


async def refuse_stream(scope: Scope, receive: Receive, send: Send, problem: Problem) -> None:
    """Answers the request for a stream with a problem document; 403 where the server has no such.

    Args:
        scope: the request.
        receive: its ASGI channel, after `websocket.connect`.
        send: where the answer goes.
        problem: why.
    """
    await deny(scope, receive, send, problem_response(problem), problem["code"])


class Nowhere:
    """Answers requests for WebSockets at paths that have none."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses one."""
        await receive()
        path = scope["path"]
        detail = f"there is no stream at {path!r}; /docs lists what there is"
        problem = no_such_path(path, detail)
        self._metrics.http_error(problem["code"])
        await refuse_stream(scope, receive, send, problem)


async def ask_for_upgrade(request: Request) -> None:  # noqa: ARG001
    """A request at a stream's path that asks for no WebSocket."""
    raise HTTPException(426, headers={"Upgrade": "websocket", "Connection": "Upgrade"})
