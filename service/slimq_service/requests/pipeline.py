"""What the hot endpoints share: one call from its arrival to its answer, measured.

A hot endpoint is a bare ASGI application: a FastAPI handler costs 1.5 to 7 times as much processor
time. It gives a function that answers, and one that words an error; reading, limits, inference,
metrics, statistics and what is left of a refused body are here. A call is a request, or one message
of a stream.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import structlog
from starlette.types import Receive, Scope, Send

from slimq.core.errors import SlimqError
from slimq.core.manifest import PolicyManifest
from slimq.core.observation import Observations
from slimq_service.http.bodies import ClientGoneError, Headers, is_long, read_body
from slimq_service.http.problems import Problem, explain
from slimq_service.http.responses import Answer, send_last, with_retry
from slimq_service.inference.engine import Engine
from slimq_service.inference.run import Inference
from slimq_service.inference.shadow import Shadow
from slimq_service.metrics.service import CLIENT_GONE, Metrics
from slimq_service.metrics.statistics import Statistics
from slimq_service.requests.call import CALL, Call
from slimq_service.requests.routing import default_variant
from slimq_service.settings import Settings
from slimq_service.variants.catalogue import Catalogue
from slimq_service.variants.loading import LoadedVariant

T = TypeVar("T")


class Hot:
    """Runs the requests of the hot endpoints."""

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
        self.statistics = Statistics()
        self._engine, self.shadow = engine, shadow
        self.runs_now = engine.runs_now  # one call less in the express lane
        self.metrics = metrics
        self._log = structlog.get_logger(component="hot")

    async def respond(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        answer: Callable[[Scope, Receive, Call], Awaitable[Answer]],
        word: Callable[[Problem], Answer],
        *,
        counted: bool = True,
    ) -> None:
        """Answers one request; every error becomes what `word` makes of its problem document.

        Args:
            scope: the request, with the names in its path.
            receive: its ASGI channel.
            send: where the answer goes.
            answer: computes the answer.
            word: words an error.
            counted: whether it is a request for actions, in the metrics and statistics of those.
        """
        call = scope[CALL] = Call(close=is_long(scope["headers"]))
        try:
            result = await self.settle(call, scope["path"], answer(scope, receive, call), counted)
        except ClientGoneError:
            return
        if not isinstance(result, Answer):
            result = with_retry(word(result), result)
        await send_last(receive, send, result, close=call.close)

    async def settle(
        self, call: Call, path: str, answer: Awaitable[T], counted: bool = True
    ) -> T | Problem:
        """What a call is answered with, or what is wrong with it; counted and timed.

        Args:
            call: says by its end whose call it was.
            path: where it came in, for the log.
            answer: computes the answer.
            counted: as `respond` has it.

        Raises:
            ClientGoneError: nobody waits for an answer any more.
        """
        self.metrics.in_flight.inc()
        try:
            result = await answer
        except ClientGoneError:
            self._count_error(call, CLIENT_GONE, counted)
            raise
        except Exception as error:
            return self.explain(call, path, error, counted)
        else:
            if counted:
                self._count(call, succeeded=True)
            return result
        finally:
            call.hold(None)
            self.metrics.in_flight.dec()
            if counted:
                self._count_call(call)

    def explain(self, call: Call, path: str, error: Exception, counted: bool = True) -> Problem:
        """The problem document of what went wrong with a call; counted, but not as a call.

        Args:
            call: whose it was.
            path: where it came in, for the log.
            error: anything but that the client has gone.
            counted: as `respond` has it.
        """
        problem = explain(error)
        if not isinstance(error, SlimqError):
            names = {"policy": call.policy, "variant": call.variant}
            self._log.error("request failed", path=path, **names, exc_info=error)
        self._count_error(call, problem["code"], counted)
        if counted:
            self._count(call, succeeded=False)
        return problem

    def fail(self, call: Call, path: str, error: Exception) -> Problem | None:
        """Counts a call that was answered in no other way; None where nobody waits for an answer.

        Args:
            call: whose it was.
            path: where it came in, for the log.
            error: what went wrong.
        """
        self._count_call(call)
        if isinstance(error, ClientGoneError):
            self._count_error(call, CLIENT_GONE, counted=True)
            return None
        return self.explain(call, path, error)

    def default_variant(self, policy: PolicyManifest, headers: Headers) -> str:
        """The variant for a request that names none; see `routing`."""
        return default_variant(policy, headers, self.catalogue.residents.can_answer)

    async def variant(self, call: Call, policy: str, variant: str) -> LoadedVariant:
        """The variant that answers, in memory and kept there until the call is over.

        Raises:
            NotFoundError: there is no such policy or variant.
            RepositoryError: it cannot be loaded.
        """
        call.variant = variant
        loaded = await self.catalogue.get(policy, variant)
        call.hold(loaded.leases)
        return loaded

    async def body(self, receive: Receive, headers: Headers, call: Call) -> bytes:
        """The whole body within the limits, as `read_body` has it."""
        call.close = True  # what stops half-way through a body cannot go on to another request
        limits = self.settings
        body = await read_body(receive, headers, limits.max_body_bytes, limits.body_seconds)
        call.close = False
        call.began = time.perf_counter_ns()
        return body

    async def read(
        self, call: Call, receive: Receive, size: int, function: Callable[..., T], *arguments: Any
    ) -> T:
        """What reads a body, in a thread, because it would keep the event loop too long.

        Raises:
            OverloadedError: too much waits already.
            DeadlineError: its turn did not come in time.
            ClientGoneError: the client closed the connection while it waited.
        """
        work = partial(function, *arguments)
        reading = await self._engine.reader.run(work, size, receive, call.stages.queue / 1e9)
        call.stages.queue += int(reading.queue_seconds * 1e9)
        call.stages.compute_input += int(reading.seconds * 1e9)
        content: T = reading.content
        return content

    async def infer(
        self, call: Call, receive: Receive, variant: LoadedVariant, observations: Observations
    ) -> Inference:
        """The Q-values, counted and timed.

        Raises:
            NonFiniteError: they are not all finite.
            OverloadedError: too much waits already.
            DeadlineError: its turn did not come in time.
            ClientGoneError: the client closed the connection while it waited.
            ClosingError: the service ended while it waited.
        """
        waited = call.stages.queue / 1e9
        inference = await self.compute(variant, observations, receive, waited)
        self.shadow.offer(variant, observations, inference.q_values)
        call.observations, call.executions = len(observations), inference.executions
        call.stages.compute_infer = int(inference.seconds * 1e9)
        call.stages.queue += int(inference.queue_seconds * 1e9)
        measured = self.metrics.of(call.policy, call.variant)
        measured.inference_seconds.observe(inference.seconds)
        measured.queue_seconds.observe(waited + inference.queue_seconds)
        measured.observations.inc(len(observations))
        measured.chose(inference.q_values.argmax(axis=1).tolist())
        return inference

    async def compute(
        self,
        variant: LoadedVariant,
        observations: Observations,
        receive: Receive,
        waited: float = 0.0,
        *,
        joined: bool = True,
    ) -> Inference:
        """The Q-values, neither counted nor shown to the shadow; as `Engine.run`."""
        return await self._engine.run(variant, observations, receive, waited, joined=joined)

    def _count_call(self, call: Call) -> None:
        measured = self.metrics.of(call.policy, call.variant)
        measured.requests.inc()
        measured.http_seconds.observe((time.perf_counter_ns() - call.arrived) * 1e-9)

    def _count_error(self, call: Call, code: str, counted: bool) -> None:
        if counted:
            self.metrics.error(call.policy, call.variant, code)
        else:
            self.metrics.http_error(code)

    def _count(self, call: Call, *, succeeded: bool) -> None:
        policy, variant = call.policy, call.variant
        if policy is None or variant is None or not self.catalogue.scan.knows(policy, variant):
            return
        statistics = self.statistics.of(policy, variant)
        elapsed = time.perf_counter_ns() - call.began
        if succeeded:
            stages = call.stages
            self.metrics.of(policy, variant).answered(stages.compute_input, stages.compute_output)
            statistics.succeed(elapsed, call.stages, call.observations, call.executions)
        else:
            statistics.fail.add(elapsed)
