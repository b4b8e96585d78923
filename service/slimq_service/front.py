"""What every request meets first: the hot endpoints without a router, and the express lane.

Routing through FastAPI costs more than the inference of a small network. Paths of the hot endpoints
are split here; everything else is the application's.

The express lane is for the request that control loops send again and again: a few vectors as JSON,
whole in the first message, for a small variant that is in memory. It checks, computes, counts and
answers like the act endpoint, without an await in between, so that nothing of what waiting and
sharing need is done. Whatever is unusual, every error among it, is handed on to the act endpoint
with the message that was read; a test holds the two to the same answers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slimq_service.access import CALL
from slimq_service.act import MIDDLE, ActEndpoint, render_start
from slimq_service.hot import Call, Hot
from slimq_service.model import LoadedVariant
from slimq_service.oip.infer import InferEndpoint
from slimq_service.parsing import FIELD, JSON
from slimq_service.residents import VariantState
from slimq_service.statistics import Stages, VariantStatistics
from slimq_service.variant_metrics import VariantMetrics

LONGEST = 16 * 1024
"""Bytes of a body that the express lane reads; a longer one would make others wait."""
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)

_JSON = JSON.encode()
_NUMBERS = frozenset((int, float))


@dataclass(frozen=True, slots=True)
class _Lane:
    """What the requests of one path need, as long as nothing has changed since the last look."""

    names: dict[str, str]
    state: VariantState
    variant: LoadedVariant
    length: int
    start: bytes
    measured: VariantMetrics
    statistics: VariantStatistics
    call: Call
    """Whose requests they are, for the access log."""


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
        self._app, self._hot, self._act = app, hot, act
        self._endpoints: dict[tuple[str, str, str], tuple[ASGIApp, str, str, str]] = {
            ("v1", "policies", "act"): (act, "policy", "variants", "variant"),
            ("v2", "models", "infer"): (infer, "model", "versions", "version"),
        }
        self._lanes: dict[str, _Lane] = {}
        self._scan = hot.catalogue.scan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if self._scan is not self._hot.catalogue.scan:  # a new look may have changed anything
            self._lanes.clear()
            self._scan = self._hot.catalogue.scan
        lane = self._lanes.get(path)
        if lane is None or lane.state.loaded is not lane.variant:
            found = self._find(path)
            if found is None:
                await self._app(scope, receive, send)
                return
            endpoint, scope["path_params"] = found
            lane = self._open(path, scope["path_params"]) if endpoint is self._act else None
            if lane is None:
                await endpoint(scope, receive, send)
                return
        message, waiting = _take(receive)
        if message is not None and not scope["query_string"]:
            answer = self._answer(lane, scope, message)
            if answer is not None:
                await send(answer[0])
                await send(answer[1])
                return
        scope["path_params"] = lane.names
        await self._act(scope, _Replay(message, waiting, receive), send)

    def _find(self, path: str) -> tuple[ASGIApp, dict[str, str]] | None:
        """The hot endpoint of a path and the names in it."""
        parts = path.split("/")
        count = len(parts)
        if count not in (5, 7) or parts[0]:
            return None
        known = self._endpoints.get((parts[1], parts[2], parts[-1]))
        if known is None or not parts[3]:
            return None
        endpoint, policy, variants, variant = known
        if count == 5:
            return endpoint, {policy: parts[3]}
        if parts[4] != variants or not parts[5]:
            return None
        return endpoint, {policy: parts[3], variant: parts[5]}

    def _open(self, path: str, names: dict[str, str]) -> _Lane | None:
        """The lane of a path, where there can be one."""
        hot, policy = self._hot, names["policy"]
        found = self._scan.policies.get(policy)
        if not self._express or found is None or found.manifest is None:
            return None
        manifest, variant = found.manifest, names.get("variant")
        if manifest.routing is not None:  # a routing key may be too long
            return None
        name = variant or manifest.default_variant
        state = hot.catalogue.state(policy, name)
        loaded, spec = state.loaded, manifest.observation
        if loaded is None or spec.dtype != "float32" or len(spec.shape) != 1:
            return None
        if loaded.policy.observation != spec or not hot.is_inline(loaded, 1):
            return None
        lane = self._lanes[path] = _Lane(
            names,
            state,
            loaded,
            spec.shape[0],
            render_start(loaded),
            hot.metrics.of(policy, name),
            hot.statistics.of(policy, name),
            Call(policy, name),
        )
        return lane

    def _answer(
        self, lane: _Lane, scope: Scope, message: Message
    ) -> tuple[Message, Message] | None:
        """The messages that answer a request, None where the act endpoint is to answer it."""
        began = time.perf_counter_ns()
        body, hot = message.get("body", b""), self._hot
        if message["type"] != "http.request" or message.get("more_body") or len(body) > LONGEST:
            return None
        if (
            not _is_plain_json(scope["headers"], len(body))
            or len(body) > hot.settings.max_body_bytes
        ):
            return None
        rows = _rows(body, lane.length)
        if rows is None or len(rows) > hot.settings.max_batch:
            return None
        count, variant = len(rows), lane.variant
        if count > 1 and not hot.is_inline(variant, count):
            return None
        observations = np.array(rows, np.float32)
        before = time.perf_counter_ns()
        try:
            q_values = variant.q_function(observations)
        except Exception:  # whatever it is, the act endpoint says what there is to say
            return None
        after = time.perf_counter_ns()
        values = q_values.tolist()
        if not math.isfinite(sum(map(sum, values))):
            return None
        actions = [row.index(max(row)) for row in values]
        content = b"".join(
            (
                lane.start,
                orjson.dumps(actions),
                MIDDLE,
                orjson.dumps(q_values, option=orjson.OPT_SERIALIZE_NUMPY),
                b"}",
            )
        )
        ended = time.perf_counter_ns()
        scope[CALL] = lane.call
        lane.state.used = time.monotonic()
        measured = lane.measured
        measured.requests.inc()
        measured.observations.inc(count)
        measured.inference_seconds.observe((after - before) * 1e-9)
        measured.queue_seconds.observe(0.0)
        measured.http_seconds.observe((ended - began) * 1e-9)
        measured.express(before - began, ended - after, actions)
        lane.statistics.succeed(
            ended - began, Stages(0, before - began, after - before, ended - after), count, 1
        )
        if variant.policy.shadow is not None:
            hot.shadow.offer(variant, observations, q_values)
        headers = [(b"content-type", _JSON), (b"content-length", b"%d" % len(content))]
        return (
            {"type": "http.response.start", "status": 200, "headers": headers},
            {"type": "http.response.body", "body": content},
        )


class _Replay:
    """The rest of a request's channel, the message that was taken from it first."""

    def __init__(self, message: Message | None, waiting: _Waiting | None, receive: Receive) -> None:
        self._message, self._waiting, self._receive = message, waiting, receive

    async def __call__(self) -> Message:
        if self._message is not None:
            message, self._message = self._message, None
            return message
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            return await waiting
        return await self._receive()


class _Waiting:
    """A coroutine that has begun and waits for a future; whoever awaits this goes on with it."""

    def __init__(self, coroutine: Any, future: Any) -> None:
        self._coroutine, self._future = coroutine, future

    def __await__(self) -> Generator[Any, Any, Message]:
        try:
            yield self._future
        except BaseException as error:
            self._coroutine.throw(error)
            raise
        message: Message = yield from self._coroutine.__await__()
        return message


def _take(receive: Receive) -> tuple[Message | None, _Waiting | None]:
    """The next message if it is there already, or else the wait for it."""
    coroutine: Any = receive()
    try:
        future = coroutine.send(None)
    except StopIteration as done:
        return done.value, None
    return None, _Waiting(coroutine, future)


def _is_plain_json(headers: list[tuple[bytes, bytes]], length: int) -> bool:
    """Whether the headers say nothing but JSON of this length."""
    typed = False
    for name, value in headers:
        if name == b"content-type":
            if typed or value != _JSON:
                return False
            typed = True
        elif name == b"content-length":
            if value != b"%d" % length:
                return False
        elif name == b"content-encoding":
            return False
    return typed


def _rows(body: bytes, length: int) -> list[list[float]] | None:
    """The vectors of a body that has nothing else, None where they are not all finite float32s."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if type(document) is not dict or len(document) != 1:
        return None
    rows = document.get(FIELD)
    if type(rows) is not list or not rows:
        return None
    for row in rows:
        if type(row) is not list or len(row) != length or not _NUMBERS.issuperset(map(type, row)):
            return None
        if max(row) > LARGEST_FLOAT32 or min(row) < -LARGEST_FLOAT32:
            return None
    return rows
