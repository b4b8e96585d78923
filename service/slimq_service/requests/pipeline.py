"""The pipeline of every call, from its arrival to its response, with its measurements.

It serves act, infer, comparisons and stream messages; endpoints differ only in their `Codec`. A
request whose body has already arrived, for a variant in memory with short runs, passes through
without ever suspending; nothing else distinguishes this fast path.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.types import Receive, Scope, Send

from slimq.core.manifest import PolicyManifest
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QValues
from slimq_service.http.bodies import Headers, is_long, read_body
from slimq_service.http.problems import Problem
from slimq_service.http.responses import (
    WHOLE_RESPONSES,
    Response,
    drain_and_close,
    send_response,
    start_message,
)
from slimq_service.inference.engine import Engine
from slimq_service.inference.run import Inference, check_finite, greedy_actions
from slimq_service.inference.shadow import Shadow
from slimq_service.metrics.service import Metrics
from slimq_service.requests.call import CALL, PARTIAL, UNREAD, WHOLE, Call
from slimq_service.requests.codec import Codec, Decoded
from slimq_service.requests.recorder import Recorder
from slimq_service.requests.routing import default_variant
from slimq_service.requests.variant_choice import choose, query_variant
from slimq_service.settings import Settings
from slimq_service.variants.catalogue import Catalogue
from slimq_service.variants.loading import LoadedVariant


class Pipeline:
    """Handles the requests of every endpoint that runs models.

    Attributes:
        settings: the service's settings, for the limits.
        catalogue: the variants.
        metrics: the service's metrics.
        recorder: counts calls.
        shadow: compares a second variant.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        engine: Engine,
        shadow: Shadow,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self.metrics = metrics
        self.recorder = Recorder(catalogue, metrics)
        self.shadow, self._engine = shadow, engine

    def act(self, codec: Codec, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handles a request for actions, once awaited.

        Args:
            codec: the endpoint's codec.
            scope: the request's scope, with its path parameters.
            receive: its ASGI receive channel.
            send: its ASGI send channel.
        """
        call = scope[CALL] = Call()
        response = self._act(codec, scope, receive, call)
        return self.respond(call, scope, receive, send, response, codec.error)

    def respond(
        self,
        call: Call,
        scope: Scope,
        receive: Receive,
        send: Send,
        response: Awaitable[Response],
        error: Callable[[Problem], Response],
        *,
        counted: bool = True,
    ) -> Awaitable[None]:
        """Sends a response, or an error response if computing it fails, once awaited.

        Args:
            call: the request's call.
            scope: the request's scope.
            receive: its ASGI receive channel.
            send: its ASGI send channel.
            response: computes the response.
            error: turns a problem document into a response.
            counted: whether the metrics and statistics of requests for actions include it.
        """

        def deliver(result: Response | Problem) -> Awaitable[Awaitable[None] | None]:
            if not isinstance(result, Response):
                return fail(result)
            if WHOLE_RESPONSES in scope.get("extensions", ()):
                return send({**start_message(result), "body": result.body})
            return send_response(send, result)

        async def fail(problem: Problem) -> Awaitable[None] | None:
            unread = call.body is UNREAD and is_long(scope["headers"])
            close = unread or call.body is PARTIAL
            await send_response(send, error(problem), close=close)
            return drain_and_close(receive, send) if close else None

        return self.recorder.settle(call, scope["path"], response, deliver, counted)

    def default_variant(self, policy: PolicyManifest, headers: Headers) -> str:
        """The variant for a request that does not name one; see `routing`."""
        return default_variant(policy, headers, self.catalogue.residents.can_answer)

    async def variant(self, call: Call, policy: str, variant: str) -> LoadedVariant:
        """The variant to run, loaded if necessary and kept in memory until the call ends.

        Raises:
            NotFoundError: unknown policy or variant.
            RepositoryError: it cannot be loaded.
        """
        call.variant = variant
        loaded = await self.catalogue.get(policy, variant)
        call.hold(loaded.leases)
        call.measured = self.metrics.of(policy, variant)
        return loaded

    async def body(self, receive: Receive, headers: Headers, call: Call) -> bytes:
        """Reads the complete body, within the limits; see `read_body`."""
        call.body = PARTIAL
        limits = self.settings
        body = await read_body(receive, headers, limits.max_body_bytes, limits.body_seconds)
        call.body = WHOLE
        call.began = time.perf_counter_ns()
        return body

    async def decode(
        self,
        codec: Codec,
        content: Any,
        body: bytes,
        spec: ObservationSpec,
        receive: Receive,
        call: Call,
    ) -> Decoded:
        """Decodes a body, in a thread if that would block the event loop.

        Raises:
            SlimqError: see `Codec.decode`.
            OverloadedError: the queue is full.
            DeadlineError: no thread was free in time.
            ClientGoneError: the client closed the connection while the body was queued.
        """
        if not codec.is_slow(content, len(body)):
            before = time.perf_counter_ns()
            decoded = codec.decode(content, body, spec)
            call.compute_input += time.perf_counter_ns() - before
            return decoded
        work = partial(codec.decode, content, body, spec)
        reading = await self._engine.reader.run(work, len(body), receive, call.queue / 1e9)
        call.queue += int(reading.queue_seconds * 1e9)
        call.compute_input += int(reading.seconds * 1e9)
        return reading.content  # type: ignore[no-any-return]

    async def infer(
        self, call: Call, receive: Receive, variant: LoadedVariant, observations: Observations
    ) -> tuple[QValues, list[int]]:
        """Computes Q-values `(batch, actions)` and greedy actions; the call has what is counted.

        Raises:
            NonFiniteError: the Q-values are not all finite.
            OverloadedError: the queue is full.
            DeadlineError: the request was queued for too long.
            ClientGoneError: the client closed the connection while the request was queued.
            ClosingError: the service shut down while it was queued.
        """
        inference = await self._engine.run(variant, observations, receive, call.queue / 1e9)
        q_values = inference.q_values
        actions = greedy_actions(q_values)
        if variant.policy.shadow is not None:
            self.shadow.offer(variant, observations, q_values)
        call.actions, call.executions = actions, inference.executions
        call.compute_infer = int(inference.seconds * 1e9)
        call.queue += int(inference.queue_seconds * 1e9)
        return q_values, actions

    async def compute(
        self,
        variant: LoadedVariant,
        observations: Observations,
        receive: Receive,
        waited: float = 0.0,
        *,
        batched: bool = True,
    ) -> Inference:
        """Computes Q-values without counting or shadowing the request; see `Engine.run`.

        Raises:
            NonFiniteError: they are not all finite.
        """
        inference = await self._engine.run(variant, observations, receive, waited, batched=batched)
        check_finite(inference.q_values)
        return inference

    async def _act(self, codec: Codec, scope: Scope, receive: Receive, call: Call) -> Response:
        names, headers = scope["path_params"], scope["headers"]
        policy = await self.catalogue.known_policy(names[codec.policy_key])
        call.policy = policy.name
        named = path = names.get(codec.variant_key)
        call.variant = policy.default_variant if path is None else path
        query = None
        if codec.takes_query and scope["query_string"]:
            query = query_variant(scope["query_string"])
            named = choose(path=path, query=query)
        default = policy.default_variant
        if policy.routing is not None:
            default = self.default_variant(policy, headers)
        call.variant = default if named is None else named
        content, spec = codec.read_headers(headers), policy.observation
        body = await self.body(receive, headers, call)
        decoded = await self.decode(codec, content, body, spec, receive, call)
        if decoded.variant is not None:
            named = choose(path=path, query=query, body=decoded.variant)
        name = default if named is None else named
        variant = await self.variant(call, policy.name, name)
        if variant.policy.observation is not spec and variant.policy.observation != spec:
            spec = variant.policy.observation  # the policy was republished meanwhile
            decoded = await self.decode(codec, content, body, spec, receive, call)
        del body  # frees its memory while the observations are queued
        q_values, actions = await self.infer(call, receive, variant, decoded.observations())
        before = time.perf_counter_ns()
        response = codec.encode(variant, decoded, q_values, actions)
        call.compute_output += time.perf_counter_ns() - before
        return response
