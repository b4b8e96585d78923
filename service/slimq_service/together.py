"""Requests for short models that one turn of the event loop has read, computed in one run.

A run of a small network costs more by being started than by its arithmetic, and what it needs of
the processor's caches is gone each time that a request was read and answered in between. So where
one turn has read several requests, those for the same variant wait until all of them are here; that
is no artificial delay, since they would wait for each other anyway. One that comes alone is
computed at once.

Requests of a variant whose Q-values depend on what is computed beside them are never joined. All
state belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from slimq.core.observation import Observations
from slimq_service.arrivals import Arrivals
from slimq_service.batching import Inference, fail, join
from slimq_service.metrics import Metrics
from slimq_service.model import LoadedVariant


@dataclass(slots=True)
class _Job:
    variant: LoadedVariant
    observations: Observations
    future: asyncio.Future[Inference]
    arrived: float


class Together:
    """Gathers requests over a turn of the event loop, and computes them in it."""

    def __init__(self, most: int, arrivals: Arrivals, metrics: Metrics) -> None:
        """Waits for nothing yet.

        Args:
            most: observations of a run; a request with more is one of its own.
            arrivals: forgets those of a turn once it has ended.
            metrics: where batches are counted.
        """
        self._most, self._arrivals, self._metrics = most, arrivals, metrics
        self._waiting: dict[int, list[_Job]] = {}

    @property
    def gathers(self) -> bool:
        """Whether requests wait for the turn's end."""
        return bool(self._waiting)

    async def run(self, variant: LoadedVariant, observations: Observations) -> Inference:
        """The Q-values of a checked batch, with others that this turn brings.

        Args:
            variant: what computes them; it takes short.
            observations: `(batch, *shape)`.
        """
        loop = asyncio.get_running_loop()
        job = _Job(variant, observations, loop.create_future(), time.perf_counter())
        if not self._waiting:  # one turn reads more requests, and one brings them here
            loop.call_soon(loop.call_soon, self._compute)
        self._waiting.setdefault(id(variant.q_function), []).append(job)
        return await job.future

    def _compute(self) -> None:
        self._arrivals.forget()
        waiting, self._waiting = self._waiting, {}
        for jobs in waiting.values():
            start = 0
            while start < len(jobs):
                stop = self._end_of_batch(jobs, start)
                self._run(jobs[start:stop])
                start = stop

    def _end_of_batch(self, jobs: Sequence[_Job], start: int) -> int:
        """Behind the last of the jobs from `start` on that fit in a batch; at least one."""
        stop, size = start + 1, len(jobs[start].observations)
        if jobs[start].variant.joinable:
            while stop < len(jobs) and size + len(jobs[stop].observations) <= self._most:
                size += len(jobs[stop].observations)
                stop += 1
        return stop

    def _run(self, jobs: Sequence[_Job]) -> None:
        variant = jobs[0].variant
        started = time.perf_counter()
        try:
            q_values = variant.q_function(join([job.observations for job in jobs]))
        except Exception as error:
            fail([job.future for job in jobs], error)
            return
        seconds = time.perf_counter() - started
        measured = self._metrics.of(variant.policy.name, variant.manifest.name)
        measured.inline(len(q_values))
        start, executions = 0, 1
        for job in jobs:
            stop = start + len(job.observations)
            if not job.future.done():
                waited = started - job.arrived
                rows = q_values[start:stop]
                job.future.set_result(Inference(rows, seconds, waited, executions))
                executions = 0
            start = stop
