"""Batches formed from whatever waits while others run, without an artificial delay.

A request that finds a free thread is computed at once and alone. Where all are busy it waits, and
the next thread to become free takes everything that waits for one variant, up to a limit: the
variant whose oldest request came first. So batches grow with the load, and nobody waits for a batch
to fill (Triton's dynamic batcher with a delay of 0; Crankshaw et al. 2017, "Clipper", NSDI).

All state belongs to the event loop. Waiting is bounded in number and in time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np

from slimq.core.errors import DeadlineError, OverloadedError
from slimq.core.observation import Observations
from slimq.core.qfunction import QFunction, QValues
from slimq_service.metrics import Metrics
from slimq_service.model import LoadedVariant


class Reason(StrEnum):
    """Why a batch was dispatched."""

    IDLE = "idle"
    FREED = "freed"
    FULL = "full"


@dataclass(frozen=True)
class BatchLimits:
    """What a batcher may do.

    Attributes:
        observations: most of a batch that is formed; a request with more is a batch of its own.
        waiting: most requests that wait, of all variants.
        seconds: longest time that a request waits for its turn.
    """

    observations: int
    waiting: int
    seconds: float


@dataclass(frozen=True)
class Inference:
    """Q-values `(batch, actions)`, and the seconds that the model took and that they waited."""

    q_values: QValues
    seconds: float
    queue_seconds: float = 0.0


@dataclass
class _Job:
    observations: Observations
    future: asyncio.Future[Inference]
    arrived: float
    expiry: asyncio.TimerHandle | None = None


@dataclass
class _Queue:
    variant: LoadedVariant
    jobs: deque[_Job] = field(default_factory=deque)


class Batcher:
    """Computes in threads what is too large for the event loop."""

    def __init__(
        self, threads: ThreadPoolExecutor, slots: int, limits: BatchLimits, metrics: Metrics
    ) -> None:
        self._threads, self._slots, self._limits = threads, slots, limits
        self._metrics = metrics
        self._queues: dict[int, _Queue] = {}
        self._waiting = 0
        self._running = 0

    async def run(self, variant: LoadedVariant, observations: Observations) -> Inference:
        """The Q-values of a checked batch, when its turn has come.

        Raises:
            OverloadedError: too many requests wait already.
            DeadlineError: its turn did not come in time.
        """
        limits, loop = self._limits, asyncio.get_running_loop()
        busy = self._running >= self._slots
        if busy and self._waiting >= limits.waiting:
            raise OverloadedError(limits.waiting, self._seconds_until_free())
        job = _Job(observations, loop.create_future(), time.perf_counter())
        queue = self._queues.setdefault(id(variant.q_function), _Queue(variant))
        queue.jobs.append(job)
        self._count(1)
        if busy:
            job.expiry = loop.call_later(limits.seconds, self._expire, job)
        else:
            self._dispatch(Reason.IDLE)
        return await job.future

    def _dispatch(self, reason: Reason) -> None:
        """Gives every free thread a batch."""
        loop = asyncio.get_running_loop()
        while self._running < self._slots and self._queues:
            key = min(self._queues, key=lambda k: self._queues[k].jobs[0].arrived)
            queue = self._queues[key]
            jobs, full = self._take(queue)
            if not queue.jobs:
                del self._queues[key]
            if not jobs:
                continue
            self._running += 1
            batch = [job.observations for job in jobs]
            measured = self._metrics.of(queue.variant.policy.name, queue.variant.manifest.name)
            measured.batches[Reason.FULL if full else reason].inc()
            measured.batch_observations.observe(sum(map(len, batch)))
            started = time.perf_counter()
            future = loop.run_in_executor(self._threads, _compute, queue.variant.q_function, batch)
            future.add_done_callback(partial(self._finish, jobs, started))

    def _take(self, queue: _Queue) -> tuple[list[_Job], bool]:
        """The oldest jobs that fit in a batch, and whether others had to stay."""
        taken: list[_Job] = []
        size = 0
        while queue.jobs:
            job = queue.jobs[0]
            if not job.future.done():
                if taken and size + len(job.observations) > self._limits.observations:
                    return taken, True
                taken.append(job)
                size += len(job.observations)
            queue.jobs.popleft()
            self._count(-1)
            if job.expiry is not None:
                job.expiry.cancel()
        return taken, False

    def _finish(
        self,
        jobs: Sequence[_Job],
        started: float,
        done: asyncio.Future[tuple[QValues, float]],
    ) -> None:
        self._running -= 1
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or error is not None:
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(error or asyncio.CancelledError())
        else:
            q_values, seconds = done.result()
            start = 0
            for job in jobs:
                stop = start + len(job.observations)
                if not job.future.done():
                    waited = started - job.arrived
                    job.future.set_result(Inference(q_values[start:stop], seconds, waited))
                start = stop
        self._dispatch(Reason.FREED)

    def _expire(self, job: _Job) -> None:
        """Its turn did not come: it is answered now, and skipped when it comes to the front."""
        if not job.future.done():
            job.future.set_exception(DeadlineError(self._limits.seconds))

    def _count(self, change: int) -> None:
        self._waiting += change
        self._metrics.queue_depth.set(self._waiting)

    def _seconds_until_free(self) -> int:
        """How long what waits will take, whole seconds, at least 1."""
        cost = sum(
            queue.variant.cost.per_observation * len(job.observations)
            for queue in self._queues.values()
            for job in queue.jobs
        )
        return max(1, math.ceil(cost / self._slots))


def _compute(q_function: QFunction, batch: Sequence[Observations]) -> tuple[QValues, float]:
    started = time.perf_counter()
    joined: Any = batch[0] if len(batch) == 1 else np.concatenate(batch)
    q_values = q_function(joined)
    return q_values, time.perf_counter() - started
