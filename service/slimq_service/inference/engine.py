"""Decides where inference runs: in the event loop, or in threads.

Short runs are inline, and batched with requests read in the same turn of the event loop
(`same_turn.py`): handing them to a thread would cost more. Longer ones are queued, and run in
batches by threads (`batching.py`). ONNX Runtime releases the GIL and its `run` is thread-safe, so
the threads share one session. Expected times were measured when the variant was loaded.

With up to `FEW_THREADS` threads, queued runs that other requests can wait for are batches in the
event loop, too. There, threads gain nothing: their computing overlaps with the loop's work, but
both wait for the GIL, and batches are smaller (docs/performance.md). More workers use more cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from slimq.core.observation import Observations
from slimq_service.http.bodies import Receive
from slimq_service.inference.arrivals import Arrivals
from slimq_service.inference.batch_limits import BatchLimits
from slimq_service.inference.batching import Batcher
from slimq_service.inference.body_reader import Reader
from slimq_service.inference.queue_budget import QueueBudget
from slimq_service.inference.run import Inference, Job, run_inline
from slimq_service.inference.runner import InLoop
from slimq_service.inference.same_turn import SameTurn
from slimq_service.inference.threads import Threads
from slimq_service.metrics.service import Metrics
from slimq_service.metrics.variant_metrics import INLINE
from slimq_service.variants.loading import LoadedVariant

MAX_INLINE_SECONDS = 200e-6
MIN_INLINE_SECONDS = 50e-6
"""Bounds of the measured limit for inline runs; the upper one applies until it is measured."""
FEW_THREADS = 2
"""Threads up to which queued runs that others can wait for stay in the event loop."""


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
            inline_seconds: longest inline run; None to have `calibrate` measure it, and to batch
                in the event loop if there are few threads.
            threads: the number of threads for longer runs.
            limits: limits of batches and of the queue.
            arrivals: requests that were read but not started.
            metrics: where batches and the queue are counted.
        """
        self._threads = Threads(threads, "slimq-inference")
        self._inline_seconds = MAX_INLINE_SECONDS if inline_seconds is None else inline_seconds
        self._calibrated, self._metrics = inline_seconds is not None, metrics
        gauges = metrics.queue_depth, metrics.queue_bytes
        self._budget = budget = QueueBudget(limits.waiting, limits.size, *gauges)
        self.reader = Reader(limits.seconds, budget)
        self._limits, self._arrivals = limits, arrivals
        self._batcher = Batcher(self._threads, threads, limits, budget, metrics)
        is_few = inline_seconds is None and threads <= FEW_THREADS
        self._loop_seconds = limits.alone_seconds if is_few else 0.0
        in_loop = replace(limits, batch_seconds=self._loop_seconds, reason=INLINE)
        self._loop_batcher = Batcher(InLoop(), 1, in_loop, budget, metrics)
        self._same_turn = SameTurn(limits.observations, metrics, self._offload)

    async def calibrate(self) -> None:
        """Sets the limit for inline runs to the measured cost of a handoff to a thread."""
        if not self._calibrated:
            self._calibrated = True
            measured = await self._threads.handoff_seconds()
            self._inline_seconds = min(max(measured, MIN_INLINE_SECONDS), MAX_INLINE_SECONDS)

    def busy(self) -> bool:
        """Whether requests are queued for a thread."""
        batchers = self._batcher, self._loop_batcher
        return any(one.has_backlog for one in batchers) or self.reader.waiting > 0

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
        batcher = self._loop_batcher if seconds <= self._loop_seconds else self._batcher
        return await batcher.run(variant, observations, receive, waited)

    def close(self) -> None:
        """Fails queued requests, and ends the threads once their work is done."""
        self._batcher.close()
        self._loop_batcher.close()
        self.reader.close()
        self._threads.close()

    def _offload(self, jobs: Sequence[Job]) -> bool:
        """Hands short runs to threads if their total time is worth a handoff and others wait.

        With few threads, the event loop runs them as fast, as long as others can wait for that.
        """
        seconds = jobs[0].variant.cost.seconds(sum(len(job.observations) for job in jobs))
        limit = max(self._inline_seconds, self._loop_seconds)
        return seconds > limit and self._batcher.offload(jobs)

    def _runs_inline(self, variant: LoadedVariant, batch: int, seconds: float) -> bool:
        """Whether a batch runs now, in the event loop.

        Short runs execute at once unless they can be batched with requests that have just arrived;
        a longer one only when nothing else is pending and no thread is busy.
        """
        alone = not self._arrivals.pending and not self._same_turn.pending
        if seconds <= self._inline_seconds:
            return alone or not variant.batch_invariant or batch >= self._limits.observations
        idle = self._arrivals.tracked and self._batcher.idle and self._loop_batcher.idle
        return alone and idle and seconds <= self._limits.alone_seconds
