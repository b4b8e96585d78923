"""An id for every request: in its answer, in what is logged meanwhile, and in problem documents.

It is the client's own `X-Request-Id` where that is one, so that one request can be followed through
several services, and made here otherwise. A context variable carries it: whatever is logged in a
request's task, or in a task that this one starts, finds it there, and only then costs anything.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-request-id"
SANE = re.compile(rb"[A-Za-z0-9._-]{1,128}")
STARTS = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start"))
"""Messages that carry an answer's headers."""

CURRENT: ContextVar[str | None] = ContextVar("slimq_request_id", default=None)
"""The id of the request that a task answers."""


def id_maker() -> Callable[[], str]:
    """Makes ids: random for the process, counted within it, so that each costs next to nothing."""
    prefix, numbers = secrets.token_hex(6), itertools.count(1)
    return lambda: f"{prefix}-{next(numbers)}"


class RequestIds:
    """An ASGI layer that gives every request its id."""

    def __init__(self, app: ASGIApp, make: Callable[[], str]) -> None:
        """Wraps `app`; `make` makes ids."""
        self._app, self._make = app, make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands on, and adds the header to what comes back."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == HEADER and SANE.fullmatch(value):
                found = value
                CURRENT.set(value.decode("ascii"))
                break
        else:
            made = self._make()
            found = made.encode("ascii")
            CURRENT.set(made)

        def send_named(message: Message) -> Awaitable[None]:
            if message["type"] in STARTS:
                message["headers"] = [*message.get("headers", ()), (HEADER, found)]
            return send(message)

        await self._app(scope, receive, send_named)


def add_request_id(
    logger: Any,  # noqa: ARG001
    method: str,  # noqa: ARG001
    event: MutableMapping[str, Any],
) -> MutableMapping[str, Any]:
    """A structlog processor: says in what is logged which request it concerns."""
    current = CURRENT.get()
    if current is not None:
        event.setdefault("request_id", current)
    return event
