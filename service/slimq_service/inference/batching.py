"""Batches formed from whatever waits while others run, without an artificial delay.

A thread that is free takes everything that waits for one variant, up to a limit: the variant whose
oldest request came first. What has arrived in the same turn of the event loop waits already, and is
shared out where several threads are free. So batches grow with the load, and nobody waits for a
batch to fill (Triton's dynamic batcher with a delay of 0; Crankshaw et al. 2017, "Clipper", NSDI).
A request that is the only one is computed in the event loop, unless that takes long: handing it to
a thread and back takes as long as some models do.

Requests of a variant whose Q-values depend on what is computed beside them are never joined. All
state belongs to the event loop. Waiting is bounded in number, in bytes and in time, and ends where
the client goes away.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from slimq.core.observation import Observations
from slimq_service.errors import ClosingError, DeadlineError
from slimq_service.http.bodies import ClientGoneError, Receive, disconnected
from slimq_service.inference.queue_budget import QueueBudget
from slimq_service.inference.run import (
    Computed,
    Inference,
    Job,
    compute,
    compute_inline,
    distribute,
    fail,
)
from slimq_service.inference.threads import Threads
from slimq_service.metrics.service import Metrics
from slimq_service.variants.loading import LoadedVariant

PATIENCE_SECONDS = 0.02
"""How long a request waits before it is worth looking whether its client is still there."""


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
        size: most bytes that wait, of all variants.
        alone_seconds: up to which a batch is computed in the event loop where it is the only one.
    """

    observations: int
    waiting: int
    seconds: float
    size: int = 256 * 2**20
    alone_seconds: float = 0.0


@dataclass(eq=False)
class _Job(Job):
    receive: Receive
    waited: float
    timer: asyncio.TimerHandle | None = None
    watching: asyncio.Future[None] | None = None


_Queue = OrderedDict[_Job, None]


class Batcher:
    """Computes what is too large for the event loop beside other requests.

    Where there is no room to wait but a thread is free, a request goes before those that wait.
    """

    def __init__(
        self,
        threads: Threads,
        slots: int,
        limits: BatchLimits,
        budget: QueueBudget,
        metrics: Metrics,
    ) -> None:
        self._threads, self._slots, self._limits = threads, slots, limits
        self._budget, self._metrics = budget, metrics
        self._queues: dict[int, _Queue] = {}
        self._running = 0

    @property
    def is_behind(self) -> bool:
        """Whether requests wait for a thread, and have not only just arrived."""
        return self._running >= self._slots and bool(self._queues)

    @property
    def idle(self) -> bool:
        """Whether nothing waits, and no thread computes."""
        return not self._running and not self._queues

    async def run(
        self,
        variant: LoadedVariant,
        observations: Observations,
        receive: Receive,
        waited: float = 0.0,
    ) -> Inference:
        """The Q-values of a checked batch, when its turn has come.

        Args:
            variant: what computes them.
            observations: `(batch, *shape)`.
            receive: the request's ASGI channel, once its body is whole.
            waited: seconds that the request has waited before.

        Raises:
            OverloadedError: too much waits already.
            DeadlineError: its turn did not come in time.
            ClientGoneError: the client closed the connection while it waited.
            ClosingError: the service ended while it waited.
        """
        future = asyncio.get_running_loop().create_future()
        job = _Job(variant, observations, future, time.perf_counter(), receive, waited)
        if self._running < self._slots and not self._budget.fits(observations.nbytes):
            self._start([job], Reason.IDLE)
            return await job.future
        self._enter(job)
        try:
            if self._running < self._slots:
                await asyncio.sleep(0)  # one turn reads more requests,
                await asyncio.sleep(0)  # and one brings them here
                if self._is_alone(job):
                    self._leave(job)
                    batch = [observations]
                    q_values, started, seconds = compute_inline(variant, batch, self._metrics)
                    return Inference(q_values, seconds, started - job.arrived)
                self._dispatch(Reason.IDLE)
            self._bound(job)
            return await job.future
        finally:
            self._leave(job)
            job.future.cancel()
            if job.watching is not None:
                job.watching.cancel()
            del job, future  # what is raised knows this frame, and the future what is raised

    def offload(self, jobs: Sequence[Job]) -> bool:
        """Has free threads compute jobs of one variant now, each its share; False if none is free.

        Args:
            jobs: that have arrived together.
        """
        free = self._slots - self._running
        if free <= 0 or self._queues:
            return False
        share = math.ceil(len(jobs) / free)
        for start in range(0, len(jobs), share):
            self._start(jobs[start : start + share], Reason.IDLE)
        return True

    def close(self) -> None:
        """Refuses what still waits."""
        for job in [job for queue in self._queues.values() for job in queue]:
            self._leave(job)
            if not job.future.done():
                job.future.set_exception(ClosingError())

    def _enter(self, job: _Job) -> None:
        """Lets a job wait. Raises OverloadedError where there is no room for it."""
        self._budget.reserve(job.observations.nbytes, self._seconds_until_free)
        self._queues.setdefault(id(job.variant.q_function), OrderedDict())[job] = None

    def _bound(self, job: _Job) -> None:
        """Sees to it that a job does not wait for ever, if it still does."""
        if job not in self._queues.get(id(job.variant.q_function), ()):
            return
        left = self._limits.seconds - job.waited
        loop = job.future.get_loop()
        if left <= PATIENCE_SECONDS:
            job.timer = loop.call_later(left, self._expire, job)
        else:
            job.timer = loop.call_later(PATIENCE_SECONDS, self._watch, job, left)

    def _is_alone(self, job: _Job) -> bool:
        """Whether nobody would wait for a job that is computed in the event loop."""
        if self._running or len(self._queues) != 1:
            return False
        (queue,) = self._queues.values()
        expected = job.variant.cost.seconds(len(job.observations))
        return len(queue) == 1 and job in queue and expected <= self._limits.alone_seconds

    def _dispatch(self, reason: Reason) -> None:
        """Gives every free thread a batch of what waits."""
        while self._running < self._slots and self._queues:
            queue = min(self._queues.values(), key=lambda queue: next(iter(queue)).arrived)
            others = len(self._queues) - 1
            share = math.ceil(len(queue) / max(1, self._slots - self._running - others))
            jobs, full = self._take(queue, share)
            if jobs:
                self._start(jobs, Reason.FULL if full else reason)

    def _take(self, queue: _Queue, most: int) -> tuple[list[_Job], bool]:
        """The oldest jobs that fit in a batch, and whether others were too many for it."""
        taken: list[_Job] = []
        size = 0
        limit = min(self._limits.observations, next(iter(queue)).variant.cost.best_batch)
        while queue and len(taken) < most:
            job = next(iter(queue))
            if not job.future.done():
                if taken and not job.variant.joinable:
                    return taken, False
                if taken and size + len(job.observations) > limit:
                    return taken, True
                taken.append(job)
                size += len(job.observations)
            self._leave(job)
        return taken, False

    def _start(self, jobs: Sequence[Job], reason: Reason) -> None:
        variant, batch = jobs[0].variant, [job.observations for job in jobs]
        self._running += 1
        try:
            self._threads.start(
                partial(compute, variant.q_function, batch), partial(self._finish, jobs)
            )
        except RuntimeError as error:  # the threads have ended, or there can be no more of them
            self._running -= 1
            fail(jobs, error)
            return
        measured = self._metrics.of(variant.policy.name, variant.manifest.name)
        measured.batches[reason].inc()
        measured.batch_observations.observe(sum(map(len, batch)))

    def _finish(self, jobs: Sequence[Job], computed: Computed | BaseException) -> None:
        self._running -= 1
        if isinstance(computed, BaseException):
            fail(jobs, computed)
        else:
            distribute(jobs, computed)
        self._dispatch(Reason.FREED)

    def _watch(self, job: _Job, seconds: float) -> None:
        """It waits for a while already: from now on its client's going is noticed.

        The server never cancels an application whose client has gone: one has to look.
        """
        loop = job.future.get_loop()
        job.timer = loop.call_later(seconds - PATIENCE_SECONDS, self._expire, job)
        job.watching = asyncio.ensure_future(self._look_out(job))

    async def _look_out(self, job: _Job) -> None:
        try:
            await disconnected(job.receive)
        except Exception as error:
            outcome: Exception = error
        else:
            outcome = ClientGoneError()
        self._leave(job)
        if not job.future.done():
            job.future.set_exception(outcome)

    def _expire(self, job: _Job) -> None:
        """Its turn did not come."""
        self._leave(job)
        if not job.future.done():
            job.future.set_exception(DeadlineError(self._limits.seconds))

    def _leave(self, job: _Job) -> None:
        """A job waits no longer, if it still did."""
        key = id(job.variant.q_function)
        queue = self._queues.get(key)
        if queue is None or job not in queue:
            return
        del queue[job]
        if not queue:
            del self._queues[key]
        self._budget.release(job.observations.nbytes)
        if job.timer is not None:
            job.timer.cancel()

    def _seconds_until_free(self) -> int:
        """How long what waits will take, whole seconds, at least 1."""
        cost = sum(
            job.variant.cost.per_observation * len(job.observations)
            for queue in self._queues.values()
            for job in queue
        )
        return max(1, math.ceil(cost / self._slots))
