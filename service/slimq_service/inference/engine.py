"""Decides where inference runs: short runs in the event loop, longer ones batched in threads.

A run expected to take less than a limit is inline, and is batched with requests read in the same
turn of the event loop (`same_turn.py`). Expected times were measured when the variant was loaded.
ONNX Runtime releases the GIL and its `run` is thread-safe, so the threads share one session.

With many threads, the limit is the cost of handing a run to one. With up to `FEW_THREADS`, threads
gain nothing: their work overlaps with the event loop's on at most one more core, but both wait for
the GIL, and batches are smaller (docs/performance.md). Runs then stay in the event loop as long as
other requests can wait for them; more cores are used by more workers (`--workers`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from slimq.core.observation import Observations
from slimq_service.http.bodies import Receive
from slimq_service.inference.arrivals import Arrivals
from slimq_service.inference.batching import Batcher, BatchLimits
from slimq_service.inference.body_reader import Reader
from slimq_service.inference.queue_budget import QueueBudget
from slimq_service.inference.run import Inference, Job, run_inline
from slimq_service.inference.same_turn import SameTurn
from slimq_service.inference.threads import Threads
from slimq_service.metrics.service import Metrics
from slimq_service.variants.loading import LoadedVariant

MAX_INLINE_SECONDS = 200e-6
MIN_INLINE_SECONDS = 50e-6
"""Bounds of the measured limit for inline runs; the upper one applies until it is measured."""
FEW_THREADS = 2


class Engine:
    """Computes Q-values for requests."""

    def __init__(
        self,
        inline_seconds: float | None,
        threads: int,
        limits: BatchLimits,
        arrivals: Arrivals,
        metrics: Metrics,
    ) -> None:
        """Starts nothing yet.

        Args:
            inline_seconds: longest inline run; None for a limit that suits the threads.
            threads: the number of threads for longer runs.
            limits: limits of batches and of the queue.
            arrivals: requests that were read but not started.
            metrics: where batches and the queue are counted.
        """
        self._threads = Threads(threads, "slimq-inference")
        self._offloads, self._metrics = threads > FEW_THREADS, metrics
        self._calibrated = inline_seconds is not None or not self._offloads
        if inline_seconds is None:
            inline_seconds = MAX_INLINE_SECONDS if self._offloads else limits.alone_seconds
        self._inline_seconds = inline_seconds
        gauges = metrics.queue_depth, metrics.queue_bytes
        self._budget = budget = QueueBudget(limits.waiting, limits.size, *gauges)
        self.reader = Reader(limits.seconds, budget)
        self._limits, self._arrivals = limits, arrivals
        self._batcher = Batcher(self._threads, threads, limits, budget, metrics)
        longest = math.inf if self._offloads else inline_seconds
        self._same_turn = SameTurn(limits.observations, longest, metrics, self._offload)

    async def calibrate(self) -> None:
        """With many threads, sets the limit for inline runs to the measured cost of a handoff."""
        if not self._calibrated:
            self._calibrated = True
            measured = await self._threads.handoff_seconds()
            self._inline_seconds = min(max(measured, MIN_INLINE_SECONDS), MAX_INLINE_SECONDS)

    def busy(self) -> bool:
        """Whether requests are queued for a thread."""
        return self._batcher.has_backlog or self.reader.waiting > 0

    async def run(
        self,
        variant: LoadedVariant,
        observations: Observations,
        receive: Receive,
        waited: float = 0.0,
        *,
        batched: bool = True,
    ) -> Inference:
        """Computes the Q-values of a checked batch.

        Args:
            variant: the variant to run.
            observations: `(batch, *shape)`.
            receive: the request's ASGI channel, once its body is complete.
            waited: seconds the request has already been queued.
            batched: whether a short run may be batched with other requests.

        Raises:
            OverloadedError: the queue is full.
            DeadlineError: the request was queued for too long.
            ClientGoneError: the client closed the connection while the request was queued.
            ClosingError: the service shut down while the request was queued.
        """
        batch = len(observations)
        seconds = variant.cost.seconds(batch)
        short = seconds <= self._inline_seconds
        if self._runs_inline(variant, batch, seconds) or (short and not batched):
            return run_inline(variant, observations, self._metrics)
        if short:
            return await self._same_turn.run(variant, observations)
        return await self._batcher.run(variant, observations, receive, waited)

    def close(self) -> None:
        """Fails queued requests, and ends the threads once their work is done."""
        self._batcher.close()
        self.reader.close()
        self._threads.close()

    def _offload(self, jobs: Sequence[Job]) -> bool:
        """Hands short runs to threads if there are many and their total time is worth a handoff."""
        if not self._offloads:
            return False
        seconds = jobs[0].variant.cost.seconds(sum(len(job.observations) for job in jobs))
        return seconds > self._inline_seconds and self._batcher.offload(jobs)

    def _runs_inline(self, variant: LoadedVariant, batch: int, seconds: float) -> bool:
        """Whether a batch runs now, in the event loop.

        Short runs execute at once unless they can be batched with requests that have just arrived;
        a longer one only when nothing else is pending and no thread is busy.
        """
        alone = not self._arrivals.pending and not self._same_turn.pending
        if seconds <= self._inline_seconds:
            return alone or not variant.batch_invariant or batch >= self._limits.observations
        idle = self._arrivals.tracked and self._batcher.idle
        return alone and idle and seconds <= self._limits.alone_seconds
