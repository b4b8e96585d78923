"""The access log: one structured record per request, if enabled by `SLIMQ_ACCESS_LOG`."""

from __future__ import annotations

import time
from collections.abc import Awaitable

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slimq_service.http.forwarded import Proxies
from slimq_service.http.request_ids import START_TYPES
from slimq_service.requests.call import CALL

MAX_PATH_LENGTH = 256
"""Bytes of a path that are logged."""


class AccessLog:
    """ASGI middleware that logs every request."""

    def __init__(self, app: ASGIApp, proxies: Proxies) -> None:
        """Wraps `app`; `proxies` determine the client of a request."""
        self._app, self._proxies = app, proxies
        self._log = structlog.get_logger(component="access")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Calls the application and logs afterwards, for a WebSocket once it is closed."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status: int | None = None

        def watch(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] in START_TYPES:
                status = message.get("status", 101)
            return send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            call = scope.get(CALL)
            self._log.info(
                "request",
                method=scope.get("method", "WEBSOCKET"),
                path=printable_path(scope),
                status=status,
                client=self._proxies.client(scope),
                policy=None if call is None else call.policy,
                variant=None if call is None else call.variant,
                ms=round((time.perf_counter() - started) * 1e3, 3),
            )


def printable_path(scope: Scope) -> str:
    """The raw path, still percent-encoded, in printable characters and truncated."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    text = raw[:MAX_PATH_LENGTH].decode("ascii", "backslashreplace")
    text = text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
    return text if len(raw) <= MAX_PATH_LENGTH else f"{text}…"
