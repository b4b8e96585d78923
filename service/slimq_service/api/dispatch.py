"""What every request meets first: the hot endpoints without a router, and the express lane.

Routing through FastAPI costs more than the inference of a small network. Paths of the hot endpoints
are split here; everything else is the application's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slimq_service.api.v1.act import ActEndpoint
from slimq_service.api.v1.act_codec import ActForm
from slimq_service.api.v2.infer import InferEndpoint
from slimq_service.api.v2.infer_codec import InferForm
from slimq_service.api.v2.request import Limits
from slimq_service.http.channel import Replay, Waiting, take
from slimq_service.requests.fast_path import (
    Form,
    Lane,
    announced,
    answer_in_turn,
    answer_now,
    open_lane,
    read,
    send_content,
)
from slimq_service.requests.pipeline import Hot
from slimq_service.variants.loading import LoadedVariant


@dataclass(frozen=True)
class _Route:
    """A hot endpoint: what its path calls a policy and a variant, and its usual requests."""

    endpoint: ASGIApp
    policy: str
    variants: str
    variant: str
    form: Callable[[LoadedVariant], Form]


class Front:
    """The ASGI application in front of the others."""

    def __init__(
        self,
        app: ASGIApp,
        hot: Hot,
        act: ActEndpoint,
        infer: InferEndpoint,
        *,
        express: bool = True,
    ) -> None:
        """Looks at nothing yet.

        Args:
            app: answers what is not hot.
            hot: what hot endpoints share.
            act: answers requests for actions.
            infer: answers the protocol's.
            express: whether there is an express lane; it tells of no request where its time went.
        """
        self._express = express
        self._app, self._hot = app, hot
        limits = Limits(hot.settings.max_batch, hot.settings.max_body_bytes)
        form = partial(InferForm, limits=limits)
        self._routes = {
            ("v1", "policies", "act"): _Route(act, "policy", "variants", "variant", ActForm),
            ("v2", "models", "infer"): _Route(infer, "model", "versions", "version", form),
        }
        self._lanes: dict[str, Lane] = {}
        self._scan = hot.catalogue.scan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        lane = self._lane_of(path)
        variant = None if lane is None else lane.variant()
        if lane is None or variant is None:
            await self._go_the_long_way(path, scope, receive, send)
            return
        began = time.perf_counter_ns()
        hot, headers, settings = self._hot, scope["headers"], self._hot.settings
        message: Message | None = None
        waiting: Waiting | None = None
        length = announced(headers, settings.max_body_bytes)
        if length >= 0 and not scope["query_string"]:
            message, waiting = take(receive)
        if message is not None:
            usual = read(lane, headers, message, length, settings.max_batch)
            if usual is not None:
                if not hot.runs_now(variant, len(usual[0])):
                    await answer_in_turn(hot, lane, variant, scope, receive, send, usual, began)
                    return
                content = answer_now(hot, lane, variant, scope, usual, began)
                if content is not None:
                    await send_content(send, content)
                    return
        scope["path_params"] = lane.names
        await lane.endpoint(scope, Replay(message, waiting, receive), send)

    def _lane_of(self, path: str) -> Lane | None:
        """The express lane of a path, where there is one."""
        if self._scan is not self._hot.catalogue.scan:  # a new look may have changed anything
            self._lanes.clear()
            self._scan = self._hot.catalogue.scan
        lane = self._lanes.get(path)
        if lane is not None and lane.variant() is not None:
            return lane
        found = self._find(path) if self._express else None
        if found is None:
            return None
        route, names = found
        lane = open_lane(self._hot, route.endpoint, names, route.form)
        if lane is not None:
            self._lanes[path] = lane
        return lane

    async def _go_the_long_way(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Has the endpoint answer, or the application what is not hot."""
        found = self._find(path)
        if found is None:
            await self._app(scope, receive, send)
        else:
            route, scope["path_params"] = found
            await route.endpoint(scope, receive, send)

    def _find(self, path: str) -> tuple[_Route, dict[str, str]] | None:
        """The hot endpoint of a path, and the names in it, the policy's first."""
        parts = path.split("/")
        count = len(parts)
        if count not in (5, 7) or parts[0]:
            return None
        route = self._routes.get((parts[1], parts[2], parts[-1]))
        if route is None or not parts[3]:
            return None
        if count == 5:
            return route, {route.policy: parts[3]}
        if parts[4] != route.variants or not parts[5]:
            return None
        return route, {route.policy: parts[3], route.variant: parts[5]}
