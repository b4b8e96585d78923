"""Two ports: one for actions, one for monitoring and administration.

The port of a request is taken from its connection, never from a header. Requests that another
worker forwards to this worker's own socket may access everything.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from slimq_service.http.error_responses import refuse
from slimq_service.http.peers import Peers
from slimq_service.http.problems import Problem, no_such_path
from slimq_service.middleware.auth import ADMIN_PREFIX, PUBLIC_PATHS
from slimq_service.middleware.server_options import SERVER

METRICS = "/metrics"
INDEX = "/v2/repository/index"
"""The list of models to load, available at both ports."""


class PortFilter:
    """ASGI middleware that serves administration at the admin port only, and nothing else there."""

    def __init__(
        self, app: ASGIApp, admin_port: int, peers: Peers, count: Callable[[str], None]
    ) -> None:
        """Wraps `app`; `count` is called with the code of every rejection."""
        self._app, self._admin_port, self._peers, self._count = app, admin_port, peers, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Rejects paths that this port does not serve."""
        if scope["type"] != "lifespan" and not self._peers.sent(scope):
            _, port = scope.get("server") or (None, None)
            if not is_served(scope["path"], administers=port == self._admin_port):
                problem = _problem(scope["path"])
                self._count(problem["code"])
                await refuse(scope, receive, send, problem)
                return
        await self._app(scope, receive, send)


def is_served(path: str, *, administers: bool) -> bool:
    """Whether the admin port (`administers`), or the other one, serves a path."""
    if path == SERVER:
        return True
    administration = path == METRICS or path.startswith(ADMIN_PREFIX)
    if administers:
        return administration or path in PUBLIC_PATHS or path == INDEX
    return not administration


def _problem(path: str) -> Problem:
    detail = f"{path!r} is not served on this port; try the other one"
    return no_such_path(path, detail, "the paths of this port")
