"""An endpoint that answers with actions, as a bare ASGI application.

A FastAPI handler costs 1.5 to 7 times as much processor time (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from slimq_service.requests.codec import Codec
from slimq_service.requests.pipeline import Pipeline


class Endpoint:
    """Answers POST requests with a codec of its own."""

    def __init__(self, pipeline: Pipeline, codec: Codec) -> None:
        self._pipeline, self._codec = pipeline, codec

    def routes(self, paths: Sequence[str], name: str) -> list[Route]:
        """Routes of the FastAPI application, described in `openapi.py`."""
        return [
            Route(path, endpoint=self, methods=["POST"], include_in_schema=False, name=name)
            for path in paths
        ]

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answers one request; the path parameters are in its scope."""
        return self._pipeline.act(self._codec, scope, receive, send)
