"""Batches of short requests that were read in the same turn of the event loop.

For a small network, the overhead of a run exceeds its arithmetic, and handling a request between
two runs evicts the model from the processor's caches. So when one turn has read several requests
for a variant, they are collected and run as one batch. That is not an artificial delay: they would
wait for each other anyway. A lone request runs at once.

Requests for variants that are not batch-invariant are never batched together. All state belongs to
the event loop.
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
    """Collects requests over a turn of the event loop, and runs them in batches."""

    def __init__(
        self,
        max_batch: int,
        metrics: Metrics,
        offload: Callable[[Sequence[Job]], bool] = lambda jobs: False,  # noqa: ARG005
    ) -> None:
        """Starts empty.

        Args:
            max_batch: maximum number of observations in a batch; a larger request is its own batch.
            metrics: where batches are counted.
            offload: hands a slow batch to free threads; returns False if it did not.
        """
        self._max_batch, self._metrics, self._offload = max_batch, metrics, offload
        self._waiting: dict[int, list[Job]] = {}
        self._batches: deque[Sequence[Job]] = deque()

    @property
    def pending(self) -> bool:
        """Whether requests are waiting for the end of the turn, or for earlier batches."""
        return bool(self._waiting or self._batches)

    async def run(self, variant: LoadedVariant, observations: Observations) -> Inference:
        """Computes Q-values, batched with other requests of this turn.

        Args:
            variant: the variant to run; its runs are short.
            observations: `(batch, *shape)`.
        """
        loop = asyncio.get_running_loop()
        job = Job(variant, observations, loop.create_future(), time.perf_counter())
        if not self._waiting:  # one turn to read more requests, one for them to get here
            loop.call_soon(loop.call_soon, self._flush, loop)
        self._waiting.setdefault(id(variant.q_function), []).append(job)
        return await job.future

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        running = bool(self._batches)
        waiting, self._waiting = self._waiting, {}
        for jobs in waiting.values():
            self._batches += self._batches_of(jobs)
        if not running:
            self._compute(loop)

    def _compute(self, loop: asyncio.AbstractEventLoop) -> None:
        """Runs one batch; the next one runs once these requests have their responses."""
        jobs = self._batches.popleft()
        try:
            if not self._offload(jobs):
                self._run(jobs)
        except BaseException as error:  # whatever the error, no request may wait forever
            fail(jobs, error)
            raise
        finally:
            if self._batches:
                loop.call_soon(self._compute, loop)

    def _batches_of(self, jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
        start = 0
        while start < len(jobs):
            stop, size = start + 1, len(jobs[start].observations)
            if jobs[start].variant.batch_invariant:
                while stop < len(jobs) and size + len(jobs[stop].observations) <= self._max_batch:
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
            else:  # perhaps only one of them fails
                for job in jobs:
                    self._run([job])
            return
        distribute(jobs, computed)
