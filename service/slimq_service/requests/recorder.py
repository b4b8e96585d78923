"""Records calls: in the Prometheus metrics, the v2 statistics and, for internal errors, the log."""

from __future__ import annotations

import time
from collections.abc import Awaitable
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
        self, call: Call, path: str, result: Awaitable[T], counted: bool = True
    ) -> T | Problem:
        """Awaits the result of a call and records it.

        Args:
            call: the call; names its policy and variant by the end.
            path: the request's path, for the log.
            result: computes the result.
            counted: whether the metrics and statistics of requests for actions include it.

        Returns:
            The result, or the problem document of the error it raised.

        Raises:
            ClientGoneError: the client closed the connection.
        """
        self._metrics.in_flight.inc()
        try:
            value = await result
        except ClientGoneError:
            self._count_error(call, CLIENT_GONE, counted)
            raise
        except Exception as error:
            return self._explain(call, path, error, counted)
        else:
            if counted:
                self._count(call, succeeded=True)
            return value
        finally:
            call.hold(None)
            self._metrics.in_flight.dec()
            if counted:
                measured = call.measured or self._metrics.of(call.policy, call.variant)
                measured.requests.inc()
                measured.http_seconds.observe((time.perf_counter_ns() - call.arrived) * 1e-9)

    def _explain(self, call: Call, path: str, error: Exception, counted: bool) -> Problem:
        """Records an error and returns its problem document."""
        problem = explain(error)
        if not isinstance(error, SlimqError):
            names = {"policy": call.policy, "variant": call.variant}
            self._log.error("request failed", path=path, **names, exc_info=error)
        self._count_error(call, problem["code"], counted)
        if counted:
            self._count(call, succeeded=False)
        return problem

    def _count_error(self, call: Call, code: str, counted: bool) -> None:
        if counted:
            self._metrics.error(call.policy, call.variant, code)
        else:
            self._metrics.http_error(code)

    def _count(self, call: Call, *, succeeded: bool) -> None:
        policy, variant, measured = call.policy, call.variant, call.measured
        if policy is None or variant is None:
            return
        if measured is None and not self._catalogue.scan.knows(policy, variant):
            return
        statistics = self.statistics.of(policy, variant)
        elapsed = call.elapsed()
        if succeeded:
            stages = call.stages
            measured = measured or self._metrics.of(policy, variant)
            measured.count_stages(stages.compute_input, stages.compute_output)
            statistics.succeed(elapsed, stages, call.observations, call.executions)
        else:
            statistics.fail.add(elapsed)
