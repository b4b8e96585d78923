"""Routing in front of FastAPI, whose router costs more than inference with a small network.

Only the paths of act and infer are matched here; FastAPI routes all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

CACHED_PATHS = 256
MAX_CACHED_LENGTH = 256
"""Characters; longer paths are parsed each time."""


@dataclass(frozen=True, slots=True)
class ActionRoute:
    """An endpoint at `/<version>/<policies>/NAME[/<variants>/NAME]/<verb>`.

    Attributes:
        endpoint: handles the requests.
        policy: name of the path parameter that holds the policy.
        variants: path segment before the variant's name.
        variant: name of the path parameter that holds the variant.
    """

    endpoint: ASGIApp
    policy: str
    variants: str
    variant: str


class Dispatch:
    """Routes act and infer requests to their endpoints, and all others to the application."""

    def __init__(self, app: ASGIApp, act: ASGIApp, infer: ASGIApp) -> None:
        """Wraps an application.

        Args:
            app: handles all other requests.
            act: the endpoint of the native API.
            infer: the endpoint of the Open Inference Protocol.
        """
        self._app, self._find = app, lru_cache(CACHED_PATHS)(self._parse)
        self._routes = {
            ("v1", "policies", "act"): ActionRoute(act, "policy", "variants", "variant"),
            ("v2", "models", "infer"): ActionRoute(infer, "model", "versions", "version"),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        app = self._app
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"]
            found = self._find(path) if len(path) <= MAX_CACHED_LENGTH else self._parse(path)
            if found is not None:
                app, scope["path_params"] = found[0], found[1].copy()
        await app(scope, receive, send)

    def _parse(self, path: str) -> tuple[ASGIApp, dict[str, str]] | None:
        """The endpoint of a path, and the path parameters with the policy first."""
        parts = path.split("/")
        count = len(parts)
        if count not in (5, 7) or parts[0]:
            return None
        route = self._routes.get((parts[1], parts[2], parts[-1]))
        if route is None or not parts[3]:
            return None
        if count == 5:
            return route.endpoint, {route.policy: parts[3]}
        if parts[4] != route.variants or not parts[5]:
            return None
        return route.endpoint, {route.policy: parts[3], route.variant: parts[5]}
