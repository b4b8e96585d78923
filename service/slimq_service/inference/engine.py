"""Where inference runs: small work on the event loop, larger work in batches in threads.

What is expected to take less than a limit runs inline, since handing it to a thread would cost
more, and together with what else the event loop has just read (`together.py`); the expectation
comes from the measurement at load. ONNX Runtime releases the GIL and its `run` is thread-safe, so
the threads share one session.
"""

from __future__ import annotations

import math

import numpy as np

from slimq.core.observation import Observations
from slimq.core.qfunction import QValues
from slimq_service.errors import NonFiniteError
from slimq_service.http.bodies import Receive
from slimq_service.inference.arrivals import Arrivals
from slimq_service.inference.batching import Batcher, BatchLimits
from slimq_service.inference.body_reader import Reader
from slimq_service.inference.queue_budget import QueueBudget
from slimq_service.inference.run import Inference, compute_inline
from slimq_service.inference.same_turn import SameTurn
from slimq_service.inference.threads import Threads
from slimq_service.metrics.service import Metrics
from slimq_service.variants.loading import LoadedVariant

FEW = 256
"""Numbers that are looked at one by one: a call of NumPy's costs as much."""


class Engine:
    """Computes Q-values for requests."""

    def __init__(
        self,
        inline_seconds: float,
        threads: int,
        limits: BatchLimits,
        arrivals: Arrivals,
        metrics: Metrics,
    ) -> None:
        """Starts nothing yet.

        Args:
            inline_seconds: up to which a batch is computed in the event loop.
            threads: for those that take longer.
            limits: of batches and of what waits.
            arrivals: whether others are about to come.
            metrics: where both are counted.
        """
        self._threads = Threads(threads, "slimq-inference")
        self._inline_seconds, self._metrics = inline_seconds, metrics
        gauges = metrics.queue_depth, metrics.queue_bytes
        self._budget = budget = QueueBudget(limits.waiting, limits.size, *gauges)
        self.reader = Reader(limits.seconds, budget)
        self._limits, self._arrivals = limits, arrivals
        self._same_turn = SameTurn(limits.observations, metrics)
        self._batcher = Batcher(self._threads, threads, limits, budget, metrics)

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
            NonFiniteError: they are not all finite.
            OverloadedError: too much waits already.
            DeadlineError: its turn did not come in time.
            ClientGoneError: the client closed the connection while it waited.
            ClosingError: the service ended while it waited.
        """
        batch = len(observations)
        short = variant.cost.seconds(batch) <= self._inline_seconds
        if self._runs_now(variant, batch) or (short and not joined):
            q_values, _, seconds = compute_inline(variant, [observations], self._metrics)
            result = Inference(q_values, seconds)
        elif short:
            result = await self._same_turn.run(variant, observations)
        else:
            result = await self._batcher.run(variant, observations, receive, waited)
        check_finite(result.q_values)
        return result

    def close(self) -> None:
        """Refuses what still waits, and ends the threads once their work is done."""
        self._batcher.close()
        self.reader.close()
        self._threads.close()

    def _runs_now(self, variant: LoadedVariant, batch: int) -> bool:
        """Whether a batch that is here now is computed at once, in the event loop.

        What takes short is, unless it can be joined with others that are about to come; what does
        not, while it is the only one and no thread is at work.
        """
        expected = variant.cost.seconds(batch)
        if expected <= self._inline_seconds:
            return self._starts_at_once(variant, batch)
        arrivals = self._arrivals
        alone = not arrivals.coming and not self._same_turn.gathers
        idle = arrivals.counted and self._batcher.idle
        return alone and idle and expected <= self._limits.alone_seconds

    def _starts_at_once(self, variant: LoadedVariant, batch: int) -> bool:
        """Whether what takes short is joined with no others."""
        alone = not self._arrivals.coming and not self._same_turn.gathers
        return alone or not variant.joinable or batch >= self._limits.observations


def check_finite(q_values: QValues) -> None:
    """Refuses Q-values that JSON could not even say.

    Raises:
        NonFiniteError: naming the first observation whose Q-values are not finite.
    """
    if q_values.size <= FEW and all(map(math.isfinite, q_values.ravel().tolist())):
        return
    finite = np.isfinite(q_values)
    if finite.all():
        return
    row = int(np.argmin(finite.all(axis=1)))
    received = ", ".join(f"{value:g}" for value in q_values[row][:16])
    raise NonFiniteError(f"observations[{row}]", "observations with finite Q-values", received)
