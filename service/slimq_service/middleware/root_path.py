"""A path prefix behind a proxy, whether or not the proxy strips it."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send


class RootPath:
    """ASGI middleware that strips the prefix.

    It is stripped once, for all inner middleware and routes. The scope's `root_path` stays empty:
    otherwise Starlette's router would strip it again.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        """Wraps `app`; `prefix` has a leading slash, but no trailing one."""
        self._app, self._prefix = app, prefix
        self._start, self._length = prefix + "/", len(prefix)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Calls the application; `raw_path` is unchanged, for logs."""
        if scope["type"] != "lifespan":
            path: str = scope["path"]
            if path.startswith(self._start):
                scope["path"] = path[self._length :]
            elif path == self._prefix:
                scope["path"] = "/"
        return self._app(scope, receive, send)
