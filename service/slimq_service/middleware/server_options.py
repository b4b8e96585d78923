"""`OPTIONS *`: the methods of the service as a whole (RFC 9110, 9.3.7)."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

SERVER = "*"
"""Path of the request."""
METHODS = ("GET", "HEAD", "OPTIONS", "POST")
HEADERS = [(b"allow", ", ".join(METHODS).encode())]


class ServerOptions:
    """ASGI middleware that answers `OPTIONS *`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers with the methods that some path of the service supports."""
        is_http = scope["type"] == "http"
        if not is_http or scope["path"] != SERVER or scope["method"] != "OPTIONS":
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 204, "headers": HEADERS})
        await send({"type": "http.response.body"})
