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
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from slimq.core.observation import Observations
from slimq_service.inference.run import Inference, Job, compute_inline, distribute, fail
from slimq_service.metrics.service import Metrics
from slimq_service.variants.loading import LoadedVariant


class SameTurn:
    """Gathers requests over a turn of the event loop, and computes them in it."""

    def __init__(
        self,
        most: int,
        metrics: Metrics,
        offload: Callable[[Sequence[Job]], bool] = lambda jobs: False,  # noqa: ARG005
    ) -> None:
        """Waits for nothing yet.

        Args:
            most: observations of a run; a request with more is one of its own.
            metrics: where batches are counted.
            offload: has threads compute a batch that takes long, where one is free to.
        """
        self._most, self._metrics, self._offload = most, metrics, offload
        self._waiting: dict[int, list[Job]] = {}
        self._batches: deque[Sequence[Job]] = deque()

    @property
    def gathers(self) -> bool:
        """Whether requests wait for the turn's end, or for others to be computed before them."""
        return bool(self._waiting or self._batches)

    async def run(self, variant: LoadedVariant, observations: Observations) -> Inference:
        """The Q-values of a checked batch, with others that this turn brings.

        Args:
            variant: what computes them; it takes short.
            observations: `(batch, *shape)`.
        """
        loop = asyncio.get_running_loop()
        job = Job(variant, observations, loop.create_future(), time.perf_counter())
        if not self._waiting:  # one turn reads more requests, and one brings them here
            loop.call_soon(loop.call_soon, self._gathered, loop)
        self._waiting.setdefault(id(variant.q_function), []).append(job)
        return await job.future

    def _gathered(self, loop: asyncio.AbstractEventLoop) -> None:
        begun = bool(self._batches)
        waiting, self._waiting = self._waiting, {}
        for jobs in waiting.values():
            self._batches += self._batches_of(jobs)
        if not begun:
            self._compute(loop)

    def _compute(self, loop: asyncio.AbstractEventLoop) -> None:
        """Runs one batch; the next comes when its requests are answered."""
        jobs = self._batches.popleft()
        try:
            if not self._offload(jobs):
                self._run(jobs)
        except BaseException as error:  # whatever it is, nobody must wait for ever
            fail(jobs, error)
            raise
        finally:
            if self._batches:
                loop.call_soon(self._compute, loop)

    def _batches_of(self, jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
        start = 0
        while start < len(jobs):
            stop, size = start + 1, len(jobs[start].observations)
            if jobs[start].variant.joinable:
                while stop < len(jobs) and size + len(jobs[stop].observations) <= self._most:
                    size += len(jobs[stop].observations)
                    stop += 1
            yield jobs[start:stop]
            start = stop

    def _run(self, jobs: Sequence[Job]) -> None:
        try:
            batch = [job.observations for job in jobs]
            computed = compute_inline(jobs[0].variant, batch, self._metrics)
        except Exception as error:
            if len(jobs) == 1:
                fail(jobs, error)
            else:  # it may be one alone that cannot be computed
                for job in jobs:
                    self._run([job])
            return
        distribute(jobs, computed)
