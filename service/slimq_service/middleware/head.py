"""HEAD for every GET route (RFC 9110, 9.3.2): the same response without its body."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY = "http.response.body"
RANGE = b"range"
"""Header that is ignored where the method is not GET (RFC 9110, 14.2)."""
ROUTE = "route"
"""Scope key in which Starlette stores the matched route; traces are named after it."""


class Head:
    """ASGI middleware that answers HEAD as GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Calls the application with GET; the server still sees HEAD, and expects no body."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name != RANGE]
        as_get = {**scope, "method": "GET", "headers": headers}

        async def send_head(message: Message) -> None:
            if message["type"] != BODY:
                await send(message)
            elif not message.get("more_body", False):
                await send({"type": BODY, "body": b""})

        try:
            await self._app(as_get, receive, send_head)
        finally:
            if ROUTE in as_get:
                scope[ROUTE] = as_get[ROUTE]
