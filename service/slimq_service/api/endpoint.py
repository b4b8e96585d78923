"""The act and infer endpoints as bare ASGI applications.

A FastAPI handler costs 1.5 to 7 times as much processor time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from slimq_service.requests.codec import Codec
from slimq_service.requests.pipeline import Pipeline


class Endpoint:
    """Handles POST requests with its own codec."""

    def __init__(self, pipeline: Pipeline, codec: Codec) -> None:
        self._pipeline, self._codec = pipeline, codec

    def routes(self, paths: Sequence[str], name: str) -> list[Route]:
        """Routes for the FastAPI application; `openapi.py` documents them."""
        return [
            Route(path, endpoint=self, methods=["POST"], include_in_schema=False, name=name)
            for path in paths
        ]

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handles one request; its scope holds the path parameters."""
        return self._pipeline.act(self._codec, scope, receive, send)
