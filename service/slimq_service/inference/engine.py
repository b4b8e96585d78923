"""Where inference runs: small work on the event loop, larger work in batches in threads.

What is expected to take less than a limit runs inline, since handing it to a thread would cost
more, and together with what else the event loop has just read (`together.py`); the expectation
comes from the measurement at load. ONNX Runtime releases the GIL and its `run` is thread-safe, so
the threads share one session.
"""

from __future__ import annotations

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

DEFAULT_SHORT_SECONDS = 200e-6
MIN_SHORT_SECONDS = 50e-6
"""Between these a run counts as short that takes no longer than handing it to a thread."""


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
            inline_seconds: up to which a run counts as short; None until `calibrate` measures it.
            threads: for those that take longer.
            limits: of batches and of what waits.
            arrivals: whether others are about to come.
            metrics: where both are counted.
        """
        self._threads = Threads(threads, "slimq-inference")
        self._inline_seconds = DEFAULT_SHORT_SECONDS if inline_seconds is None else inline_seconds
        self._calibrated, self._metrics = inline_seconds is not None, metrics
        gauges = metrics.queue_depth, metrics.queue_bytes
        self._budget = budget = QueueBudget(limits.waiting, limits.size, *gauges)
        self.reader = Reader(limits.seconds, budget)
        self._limits, self._arrivals = limits, arrivals
        self._batcher = Batcher(self._threads, threads, limits, budget, metrics)
        self._same_turn = SameTurn(limits.observations, metrics, self._offload)

    async def calibrate(self) -> None:
        """Measures what handing work to a thread costs here: a run up to that is short."""
        if not self._calibrated:
            self._calibrated = True
            measured = await self._threads.handoff_seconds()
            self._inline_seconds = min(max(measured, MIN_SHORT_SECONDS), DEFAULT_SHORT_SECONDS)

    def busy(self) -> bool:
        """Whether requests wait for a thread."""
        return self._batcher.is_behind or self.reader.waiting > 0

    async def run(
        self,
        variant: LoadedVariant,
        observations: Observations,
        receive: Receive,
        waited: float = 0.0,
        *,
        joined: bool = True,
    ) -> Inference:
        """The Q-values of a checked batch.

        Args:
            variant: what computes them.
            observations: `(batch, *shape)`.
            receive: the request's ASGI channel, once its body is whole.
            waited: seconds that the request has waited before.
            joined: whether what takes short may be computed with others, in their time.

        Raises:
            OverloadedError: too much waits already.
            DeadlineError: its turn did not come in time.
            ClientGoneError: the client closed the connection while it waited.
            ClosingError: the service ended while it waited.
        """
        batch = len(observations)
        seconds = variant.cost.seconds(batch)
        short = seconds <= self._inline_seconds
        if self._runs_now(variant, batch, seconds) or (short and not joined):
            return run_inline(variant, observations, self._metrics)
        if short:
            return await self._same_turn.run(variant, observations)
        return await self._batcher.run(variant, observations, receive, waited)

    def close(self) -> None:
        """Refuses what still waits, and ends the threads once their work is done."""
        self._batcher.close()
        self.reader.close()
        self._threads.close()

    def _offload(self, jobs: Sequence[Job]) -> bool:
        """Has threads compute what short runs add up to, where that is worth handing over."""
        seconds = jobs[0].variant.cost.seconds(sum(len(job.observations) for job in jobs))
        return seconds > self._inline_seconds and self._batcher.offload(jobs)

    def _runs_now(self, variant: LoadedVariant, batch: int, seconds: float) -> bool:
        """Whether a batch is computed at once, in the event loop.

        Short runs execute at once unless they can be batched with requests that have just arrived;
        a longer one only when nothing else is pending and no thread is busy.
        """
        alone = not self._arrivals.coming and not self._same_turn.gathers
        if seconds <= self._inline_seconds:
            return alone or not variant.joinable or batch >= self._limits.observations
        idle = self._arrivals.counted and self._batcher.idle
        return alone and idle and seconds <= self._limits.alone_seconds
