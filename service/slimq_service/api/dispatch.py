"""The application that every request meets first.

Routing through FastAPI costs more than the inference of a small network, so the paths of the
endpoints that answer with actions are split here; everything else is the application's.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class ActionRoute:
    """An endpoint at `/<version>/<policies>/NAME[/<variants>/NAME]/<verb>`, by its parameters.

    Attributes:
        endpoint: answers.
        policy: path parameter of the policy's name.
        variants: path segment before the variant's name.
        variant: path parameter of that.
    """

    endpoint: ASGIApp
    policy: str
    variants: str
    variant: str


class Dispatch:
    """Routes the paths that answer with actions, and hands on everything else."""

    def __init__(self, app: ASGIApp, act: ASGIApp, infer: ASGIApp) -> None:
        """Wraps an application.

        Args:
            app: answers what is not routed here.
            act: answers the native API's requests for actions.
            infer: answers the protocol's.
        """
        self._app = app
        self._routes = {
            ("v1", "policies", "act"): ActionRoute(act, "policy", "variants", "variant"),
            ("v2", "models", "infer"): ActionRoute(infer, "model", "versions", "version"),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        app = self._app
        if scope["type"] == "http" and scope["method"] == "POST":
            found = self._find(scope["path"])
            if found is not None:
                app, scope["path_params"] = found
        await app(scope, receive, send)

    def _find(self, path: str) -> tuple[ASGIApp, dict[str, str]] | None:
        """The endpoint of a path and its path parameters, the policy's first."""
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
