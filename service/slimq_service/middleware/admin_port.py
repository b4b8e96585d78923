"""Two ports: one for whoever asks for actions, one for whoever watches and administers.

Which port a request came in by is read from its connection's own address, never from a header.
Another worker, which passes something on by this worker's own socket, is answered everything.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from slimq_service.http.error_responses import refuse
from slimq_service.http.peers import Peers
from slimq_service.http.problems import Problem, no_such_path
from slimq_service.middleware.auth import ADMINISTRATION, OPEN

METRICS = "/metrics"
INDEX = "/v2/repository/index"
"""What a load is chosen by; both ports answer it."""


class Ports:
    """An ASGI layer that answers administration at its own port alone, and nothing else there."""

    def __init__(
        self, app: ASGIApp, admin_port: int, peers: Peers, count: Callable[[str], None]
    ) -> None:
        """Wraps `app`; `count` is told the code of every refusal."""
        self._app, self._admin_port, self._peers, self._count = app, admin_port, peers, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers what is not at this port, and hands on what is."""
        if scope["type"] != "lifespan" and not self._peers.sent(scope):
            _, port = scope.get("server") or (None, None)
            if not is_at(scope["path"], administers=port == self._admin_port):
                problem = _problem(scope["path"])
                self._count(problem["code"])
                await refuse(scope, receive, send, problem)
                return
        await self._app(scope, receive, send)


def is_at(path: str, *, administers: bool) -> bool:
    """Whether the port that administers, or the other, answers a path."""
    administration = path == METRICS or path.startswith(ADMINISTRATION)
    if administers:
        return administration or path in OPEN or path == INDEX
    return not administration


def _problem(path: str) -> Problem:
    detail = f"there is nothing at {path!r} on this port; there is another for the rest"
    return no_such_path(path, detail, "the paths of this port")
