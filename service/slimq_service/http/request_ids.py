"""Request ids: in responses, log records and problem documents.

A valid `X-Request-Id` of the client is kept, so that a request can be traced across services;
otherwise an id is generated. It is passed in a context variable, where log records of the request's
task and its child tasks look it up; requests that log nothing pay nothing.
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
VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
START_TYPES = frozenset(
    ("http.response.start", "websocket.accept", "websocket.http.response.start")
)
"""ASGI messages that carry a response's headers."""

CURRENT_ID: ContextVar[str | None] = ContextVar("slimq_request_id", default=None)
"""The id of the request that the current task handles."""


def id_maker() -> Callable[[], str]:
    """Returns a generator of ids: a random prefix per process, then a cheap counter."""
    prefix, numbers = secrets.token_hex(6), itertools.count(1)
    return lambda: f"{prefix}-{next(numbers)}"


class RequestIds:
    """ASGI middleware that assigns an id to every request."""

    def __init__(self, app: ASGIApp, make: Callable[[], str]) -> None:
        """Wraps `app`; `make` generates ids."""
        self._app, self._make = app, make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Calls the application, and adds the header to its response."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == HEADER and VALID_ID.fullmatch(value):
                found = value
                CURRENT_ID.set(value.decode("ascii"))
                break
        else:
            made = self._make()
            found = made.encode("ascii")
            CURRENT_ID.set(made)

        def send_named(message: Message) -> Awaitable[None]:
            if message["type"] in START_TYPES:
                message["headers"] = [*message.get("headers", ()), (HEADER, found)]
            return send(message)

        await self._app(scope, receive, send_named)


def add_request_id(
    logger: Any,  # noqa: ARG001
    method: str,  # noqa: ARG001
    event: MutableMapping[str, Any],
) -> MutableMapping[str, Any]:
    """A structlog processor that adds the id of the current request."""
    current = CURRENT_ID.get()
    if current is not None:
        event.setdefault("request_id", current)
    return event
