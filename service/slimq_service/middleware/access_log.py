"""The access log: one structured line for each request, where the setting asks for it."""

from __future__ import annotations

import time
from collections.abc import Awaitable

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slimq_service.http.forwarded import Proxies
from slimq_service.http.request_ids import STARTS
from slimq_service.requests.call import CALL

LONGEST_PATH = 256


class AccessLog:
    """An ASGI layer that logs what went through it."""

    def __init__(self, app: ASGIApp, proxies: Proxies) -> None:
        """Wraps `app`; `proxies` know who the client of a request is."""
        self._app, self._proxies = app, proxies
        self._log = structlog.get_logger(component="access")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands on, and logs afterwards; a WebSocket once it is closed."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status: int | None = None

        def watch(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] in STARTS:
                status = message.get("status", 101)
            return send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            call = scope.get(CALL)
            self._log.info(
                "request",
                method=scope.get("method", "WEBSOCKET"),
                path=shown_path(scope),
                status=status,
                client=self._proxies.client(scope),
                policy=None if call is None else call.policy,
                variant=None if call is None else call.variant,
                ms=round((time.perf_counter() - started) * 1e3, 3),
            )


def shown_path(scope: Scope) -> str:
    """The path as it was sent, percent signs and all: printable, and of a bounded length."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    text = raw[:LONGEST_PATH].decode("ascii", "backslashreplace")
    text = text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
    return text if len(raw) <= LONGEST_PATH else f"{text}…"
