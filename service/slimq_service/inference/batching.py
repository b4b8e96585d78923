"""Batches of whatever is queued while other batches run, without an artificial delay.

A free thread takes everything queued for one variant, up to a limit, starting with the variant
whose oldest request arrived first. Requests that arrive in the same turn of the event loop are
queued first, and split between the threads if several are free. So batches grow with the load, and
no request waits for a batch to fill (Triton's dynamic batcher with a delay of 0; Crankshaw et al.
2017, "Clipper", NSDI). A lone request runs in the event loop unless it is slow: the handoff to a
thread and back takes as long as some models do.

Requests for variants that are not batch-invariant are never batched together. The queue is bounded
in requests, bytes and time, and belongs to the event loop; a client that disconnects leaves it.
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
from slimq_service.inference.batch_limits import BatchLimits
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
from slimq_service.inference.runner import Runner
from slimq_service.metrics.service import Metrics
from slimq_service.variants.loading import LoadedVariant

WATCH_AFTER_SECONDS = 0.02
"""Time in the queue after which a request's client is watched for disconnection."""


class Reason(StrEnum):
    """Why a batch was dispatched."""

    IDLE = "idle"
    FREED = "freed"
    FULL = "full"


@dataclass(eq=False)
class _Job(Job):
    receive: Receive
    waited: float
    timer: asyncio.TimerHandle | None = None
    watcher: asyncio.Future[None] | None = None


_Queue = OrderedDict[_Job, None]


class Batcher:
    """Queues requests that cannot run at once, and runs them in batches.

    If the queue is full but a thread is free, a request runs at once, ahead of those queued.
    """

    def __init__(
        self,
        runner: Runner,
        slots: int,
        limits: BatchLimits,
        budget: QueueBudget,
        metrics: Metrics,
    ) -> None:
        self._runner, self._slots, self._limits = runner, slots, limits
        self._budget, self._metrics = budget, metrics
        self._queues: dict[int, _Queue] = {}
        self._running = 0

    @property
    def has_backlog(self) -> bool:
        """Whether requests are queued because every thread is busy."""
        return self._running >= self._slots and bool(self._queues)

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or running."""
        return not self._running and not self._queues

    async def run(
        self,
        variant: LoadedVariant,
        observations: Observations,
        receive: Receive,
        waited: float = 0.0,
    ) -> Inference:
        """Queues a checked batch and computes its Q-values.

        Args:
            variant: the variant to run.
            observations: `(batch, *shape)`.
            receive: the request's ASGI channel, once its body is complete.
            waited: seconds the request has already been queued.

        Raises:
            OverloadedError: the queue is full.
            DeadlineError: the request was queued for too long.
            ClientGoneError: the client closed the connection while the request was queued.
            ClosingError: the service shut down while the request was queued.
        """
        future = asyncio.get_running_loop().create_future()
        job = _Job(variant, observations, future, time.perf_counter(), receive, waited)
        if self._running < self._slots and not self._budget.fits(observations.nbytes):
            self._start([job], Reason.IDLE)
            return await job.future
        self._enqueue(job)
        try:
            if self._running < self._slots:
                await asyncio.sleep(0)  # one turn to read more requests,
                await asyncio.sleep(0)  # and one for them to get here
                if self._is_alone(job):
                    self._dequeue(job)
                    batch = [observations]
                    q_values, started, seconds = compute_inline(variant, batch, self._metrics)
                    return Inference(q_values, seconds, started - job.arrived)
                self._dispatch(Reason.IDLE)
            self._start_deadline(job)
            return await job.future
        finally:
            self._dequeue(job)
            job.future.cancel()
            if job.watcher is not None:
                job.watcher.cancel()
            del job, future  # breaks the cycle of traceback, frame, future and exception

    def offload(self, jobs: Sequence[Job]) -> bool:
        """Splits jobs of one variant between the free threads; returns False if none is free.

        Args:
            jobs: jobs that arrived in the same turn.
        """
        free = self._slots - self._running
        if free <= 0 or self._queues:
            return False
        share = math.ceil(len(jobs) / free)
        for start in range(0, len(jobs), share):
            self._start(jobs[start : start + share], Reason.IDLE)
        return True

    def close(self) -> None:
        """Fails every queued request."""
        for job in [job for queue in self._queues.values() for job in queue]:
            self._dequeue(job)
            if not job.future.done():
                job.future.set_exception(ClosingError())

    def _enqueue(self, job: _Job) -> None:
        """Queues a job. Raises OverloadedError if the queue is full."""
        self._budget.reserve(job.observations.nbytes, self._seconds_until_free)
        self._queues.setdefault(id(job.variant.q_function), OrderedDict())[job] = None

    def _start_deadline(self, job: _Job) -> None:
        """Starts the deadline of a job that is still queued."""
        if job not in self._queues.get(id(job.variant.q_function), ()):
            return
        left = self._limits.seconds - job.waited
        loop = job.future.get_loop()
        if left <= WATCH_AFTER_SECONDS:
            job.timer = loop.call_later(left, self._expire, job)
        else:
            job.timer = loop.call_later(WATCH_AFTER_SECONDS, self._watch, job, left)

    def _is_alone(self, job: _Job) -> bool:
        """Whether a job may run in the event loop without delaying another request."""
        if self._running or len(self._queues) != 1:
            return False
        (queue,) = self._queues.values()
        expected = job.variant.cost.seconds(len(job.observations))
        return len(queue) == 1 and job in queue and expected <= self._limits.alone_seconds

    def _dispatch(self, reason: Reason) -> None:
        """Gives every free thread a batch from the queues."""
        while self._running < self._slots and self._queues:
            queue = min(self._queues.values(), key=lambda queue: next(iter(queue)).arrived)
            others = len(self._queues) - 1
            share = math.ceil(len(queue) / max(1, self._slots - self._running - others))
            jobs, full = self._take_batch(queue, share)
            if jobs:
                self._start(jobs, Reason.FULL if full else reason)

    def _take_batch(self, queue: _Queue, max_jobs: int) -> tuple[list[_Job], bool]:
        """Takes the oldest jobs that fit in a batch; also returns whether it is full."""
        taken: list[_Job] = []
        size = 0
        limit = self._limits.largest_batch(next(iter(queue)).variant.cost)
        while queue and len(taken) < max_jobs:
            job = next(iter(queue))
            if not job.future.done():
                if taken and not job.variant.batch_invariant:
                    return taken, False
                if taken and size + len(job.observations) > limit:
                    return taken, True
                taken.append(job)
                size += len(job.observations)
            self._dequeue(job)
        return taken, False

    def _start(self, jobs: Sequence[Job], reason: Reason) -> None:
        variant, batch = jobs[0].variant, [job.observations for job in jobs]
        self._running += 1
        try:
            self._runner.start(
                partial(compute, variant.q_function, batch), partial(self._finish, jobs)
            )
        except RuntimeError as error:  # the pool is closed, or the system is out of threads
            self._running -= 1
            fail(jobs, error)
            return
        measured = self._metrics.of(variant.policy.name, variant.manifest.name)
        measured.batches[self._limits.reason or reason].inc()
        measured.batch_observations.observe(sum(map(len, batch)))

    def _finish(self, jobs: Sequence[Job], computed: Computed | BaseException) -> None:
        self._running -= 1
        if isinstance(computed, BaseException):
            fail(jobs, computed)
        else:
            distribute(jobs, computed)
        self._dispatch(Reason.FREED)

    def _watch(self, job: _Job, seconds: float) -> None:
        """Starts to watch the client of a job that has been queued for a while.

        Servers do not cancel an application when its client disconnects.
        """
        loop = job.future.get_loop()
        job.timer = loop.call_later(seconds - WATCH_AFTER_SECONDS, self._expire, job)
        job.watcher = asyncio.ensure_future(self._await_disconnect(job))

    async def _await_disconnect(self, job: _Job) -> None:
        try:
            await disconnected(job.receive)
        except Exception as error:
            outcome: Exception = error
        else:
            outcome = ClientGoneError()
        self._dequeue(job)
        if not job.future.done():
            job.future.set_exception(outcome)

    def _expire(self, job: _Job) -> None:
        """Fails a job whose deadline has passed."""
        self._dequeue(job)
        if not job.future.done():
            job.future.set_exception(DeadlineError(self._limits.seconds))

    def _dequeue(self, job: _Job) -> None:
        """Removes a job from its queue, if it is still there."""
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
        """Estimated seconds to clear the queue, rounded up."""
        cost = sum(
            job.variant.cost.per_observation * len(job.observations)
            for queue in self._queues.values()
            for job in queue
        )
        return max(1, math.ceil(cost / self._slots))
