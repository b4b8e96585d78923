"""A prefix of paths, behind a proxy that passes it on; one that strips it is as good."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send


class RootPath:
    """An ASGI layer that takes the prefix off.

    It is taken off once, and what is left is the path for everybody: for keys, ports and routes
    alike. So `root_path` of the scope stays empty: Starlette's router would take it off again.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        """Wraps `app`; `prefix` begins with a slash, and ends with none."""
        self._app, self._prefix = app, prefix
        self._start, self._length = prefix + "/", len(prefix)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Hands on; `raw_path` stays as it was sent, for logs."""
        if scope["type"] != "lifespan":
            path: str = scope["path"]
            if path.startswith(self._start):
                scope["path"] = path[self._length :]
            elif path == self._prefix:
                scope["path"] = "/"
        return self._app(scope, receive, send)
