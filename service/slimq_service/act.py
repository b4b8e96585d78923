"""The hot endpoint: observations in, actions and Q-values out, as a bare ASGI application.

A FastAPI handler costs 1.5 to 7 times as much processor time as this, so the act routes are plain
Starlette routes in the FastAPI application, with their schema in `openapi.py`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import orjson
import structlog
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from slimq.core.errors import ConflictError, InvalidInputError, SlimqError, suggestion
from slimq.core.observation import Observations
from slimq_service.batching import Inference
from slimq_service.bodies import ClientGoneError, drain, is_long, media_type, read_body
from slimq_service.catalogue import Catalogue
from slimq_service.engine import Engine
from slimq_service.metrics import CLIENT_GONE, Metrics
from slimq_service.model import LoadedVariant
from slimq_service.parsing import JSON, MEDIA_TYPES, Envelope, parse
from slimq_service.problems import MEDIA_TYPE as PROBLEM_MEDIA_TYPE
from slimq_service.problems import internal_problem, problem_of, render
from slimq_service.settings import Settings

POLICY_PATH = "/v1/policies/{policy}/act"
VARIANT_PATH = "/v1/policies/{policy}/variants/{variant}/act"
LARGE_JSON_BYTES = 64 * 1024
"""A longer JSON body is parsed in a thread: a megabyte takes tens of milliseconds."""

DRAIN_SECONDS = 1.0
"""How long a client may go on sending a body that is already refused."""


@dataclass
class Call:
    """One request on its way, filled in as it becomes known; what metrics and errors need."""

    policy: str | None = None
    variant: str | None = None
    close: bool = False
    retry_after: int | None = None


class ActEndpoint:
    """Answers act requests."""

    def __init__(
        self, settings: Settings, catalogue: Catalogue, engine: Engine, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._engine = engine
        self._metrics = metrics
        self._log = structlog.get_logger(component="act")

    def routes(self) -> list[Route]:
        """The two routes: variant by path, or by body, query or the policy's default."""
        return [
            Route(path, endpoint=self, methods=["POST"], include_in_schema=False, name="act")
            for path in (POLICY_PATH, VARIANT_PATH)
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; every error becomes a problem document."""
        started = time.perf_counter()
        call = Call()
        self._metrics.in_flight.inc()
        try:
            status, body = 200, await self._answer(scope, receive, call)
        except ClientGoneError:
            self._metrics.error(call.policy, call.variant, CLIENT_GONE)
            return
        except SlimqError as error:
            self._metrics.error(call.policy, call.variant, error.code)
            call.retry_after = getattr(error, "retry_after", None)
            status, body = error.status, render(problem_of(error))
        except Exception:
            problem = internal_problem()
            self._metrics.error(call.policy, call.variant, problem["code"])
            self._log.exception("act failed", policy=call.policy, variant=call.variant)
            status, body = 500, render(problem)
        finally:
            self._metrics.in_flight.dec()
            measured = self._metrics.of(call.policy, call.variant)
            measured.requests.inc()
            measured.http_seconds.observe(time.perf_counter() - started)
        await _send(send, status, body, call)
        if call.close:
            await drain(receive, DRAIN_SECONDS)
            await send({"type": "http.response.body", "body": b""})

    async def _answer(self, scope: Scope, receive: Receive, call: Call) -> bytes:
        names, headers = scope["path_params"], scope["headers"]
        call.close = is_long(headers)
        policy = await self._catalogue.known_policy(names["policy"])
        call.policy, call.variant = policy.name, names.get("variant", policy.default_variant)
        asked = {"path": names.get("variant"), "query": query_variant(scope["query_string"])}
        call.variant = choose(asked, policy.default_variant)
        media = media_type(headers, MEDIA_TYPES)
        limits = self._settings
        call.close = True  # what stops half-way through a body cannot go on to another request
        body = await read_body(receive, headers, limits.max_body_bytes, limits.body_seconds)
        call.close = False
        large = media == JSON and len(body) > LARGE_JSON_BYTES
        arguments = media, body, policy.observation, limits.max_batch
        envelope = await self._in_thread(parse, *arguments) if large else parse(*arguments)
        chosen = choose({**asked, "body": envelope.variant}, policy.default_variant)
        call.variant = chosen
        variant = await self._catalogue.get(policy.name, chosen)
        observations = await self._observations(envelope, variant, large=large)
        inference = await self._engine.run(variant, observations)
        measured = self._metrics.of(call.policy, call.variant)
        measured.inference_seconds.observe(inference.seconds)
        measured.queue_seconds.observe(inference.queue_seconds)
        measured.observations.inc(len(observations))
        return render_answer(variant, inference)

    async def _observations(
        self, envelope: Envelope, variant: LoadedVariant, *, large: bool
    ) -> Observations:
        spec, limit = variant.policy.observation, self._settings.max_batch
        if not large:
            return envelope.observations(spec, limit)
        observations: Observations = await self._in_thread(envelope.observations, spec, limit)
        return observations

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(
            self._engine.threads, function, *arguments
        )


def query_variant(query: bytes) -> str | None:
    """The variant that a query string names.

    Raises:
        InvalidInputError: an unknown parameter.
        ConflictError: different variants.
    """
    if not query:
        return None
    found: str | None = None
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="replace")
    for name, value in pairs:
        if name != "variant":
            hint = suggestion(name, ["variant"])
            raise InvalidInputError("query", "only the parameter variant", repr(name), hint)
        if found is not None and found != value:
            raise ConflictError("variant", "one variant", f"{found!r} and {value!r} by query")
        found = value
    return found


def choose(asked: dict[str, str | None], default: str) -> str:
    """The one variant that was asked for, or the default.

    Args:
        asked: the variant by where it was named: path, query, body.
        default: the policy's default variant.

    Raises:
        ConflictError: two places name different variants; the message has both.
    """
    named = {place: name for place, name in asked.items() if name is not None}
    if len(set(named.values())) > 1:
        received = " and ".join(f"{name!r} by {place}" for place, name in named.items())
        raise ConflictError("variant", "the same variant everywhere", received)
    return next(iter(named.values()), default)


def render_answer(variant: LoadedVariant, inference: Inference) -> bytes:
    """The answer's JSON; a Q-value is written so that it reads back as the same float32."""
    q_values = np.ascontiguousarray(inference.q_values)
    return orjson.dumps(
        {
            "policy": variant.policy.name,
            "variant": variant.manifest.name,
            "sha256": variant.sha256,
            "actions": q_values.argmax(axis=1),
            "q_values": q_values,
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


async def _send(send: Send, status: int, body: bytes, call: Call) -> None:
    media = b"application/json" if status == 200 else PROBLEM_MEDIA_TYPE.encode()
    headers = [(b"content-type", media), (b"content-length", str(len(body)).encode())]
    if call.retry_after is not None:
        headers.append((b"retry-after", str(call.retry_after).encode()))
    if call.close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": call.close})
