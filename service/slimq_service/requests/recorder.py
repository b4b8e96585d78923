"""Records calls: in the Prometheus metrics, the v2 statistics and, for internal errors, the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from slimq.core.errors import SlimqError
from slimq_service.http.bodies import ClientGoneError
from slimq_service.http.problems import Problem, explain
from slimq_service.metrics.codes import CLIENT_GONE
from slimq_service.metrics.service import Metrics
from slimq_service.metrics.statistics import Statistics
from slimq_service.requests.call import Call
from slimq_service.variants.catalogue import Catalogue

T = TypeVar("T")


class Recorder:
    """Runs calls and counts each one once, whatever its outcome.

    Attributes:
        statistics: counts and nanoseconds of each variant.
    """

    def __init__(self, catalogue: Catalogue, metrics: Metrics) -> None:
        self.statistics = Statistics()
        self._catalogue, self._metrics = catalogue, metrics
        self._log = structlog.get_logger(component="requests")

    async def settle(
        self,
        call: Call,
        path: str,
        result: Awaitable[T],
        deliver: Callable[[T | Problem], Awaitable[Awaitable[None] | None]],
        counted: bool = True,
    ) -> None:
        """Awaits the result of a call, delivers it, and counts the call.

        It is counted last, so that its client does not wait for that.

        Args:
            call: the call; names its policy and variant by the end.
            path: the request's path, for the log.
            result: computes the result.
            deliver: delivers the result, or the problem document of the error that it raised; not
                called if the client has closed the connection. What it returns is awaited after
                the call is counted.
            counted: whether the metrics and statistics of requests for actions include it.
        """
        in_flight, code, ended, rest = self._metrics.in_flight, None, 0, None
        in_flight.inc()
        try:
            try:
                outcome: T | Problem = await result
            except ClientGoneError:
                code = CLIENT_GONE
                return
            except asyncio.CancelledError:  # gRPC cancels calls that their client gave up
                code = CLIENT_GONE
                raise
            except Exception as error:
                outcome = self._explain(call, path, error)
                code = outcome["code"]
            finally:
                call.hold(None)
                in_flight.dec()
            ended = time.perf_counter_ns()
            rest = await deliver(outcome)
        finally:
            if counted:
                self._count(call, code, ended)
            elif code is not None:
                self._metrics.http_error(code)
        if rest is not None:
            await rest

    def _explain(self, call: Call, path: str, error: Exception) -> Problem:
        """The problem document of an error; an internal one is logged."""
        if not isinstance(error, SlimqError):
            names = {"policy": call.policy, "variant": call.variant}
            self._log.error("request failed", path=path, **names, exc_info=error)
        return explain(error)

    def _count(self, call: Call, code: str | None, ended: int) -> None:
        """Counts a call in the metrics, and in the statistics unless its client has gone.

        Args:
            call: the call.
            code: of the error; None if it succeeded.
            ended: when its result was available, by `perf_counter_ns`; 0 if there is none.
        """
        has_result, ended = ended != 0, ended or time.perf_counter_ns()
        policy, variant = call.policy, call.variant
        measured = call.measured or self._metrics.of(policy, variant)
        measured.requests.inc()
        measured.http_seconds.observe((ended - call.arrived) * 1e-9)
        if call.actions:
            measured.inference_seconds.observe(call.compute_infer * 1e-9)
            measured.queue_seconds.observe(call.queue * 1e-9)
            measured.count_actions(call.actions)
        if code is not None:
            self._metrics.error(policy, variant, code)
        elif has_result:
            measured.parse_seconds.observe(call.compute_input * 1e-9)
            measured.response_seconds.observe(call.compute_output * 1e-9)
        if policy is None or variant is None or not has_result:
            return
        if call.measured is None and not self._catalogue.scan.knows(policy, variant):
            return
        statistics = self.statistics.of(policy, variant)
        elapsed = ended - (call.began or call.arrived)
        if code is None:
            statistics.succeed(elapsed, call, len(call.actions), call.executions)
        else:
            statistics.fail.add(elapsed)
