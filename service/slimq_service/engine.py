"""Where inference runs: small work on the event loop, larger work in batches in threads.

Handing a 15 µs model to a thread costs about 130 µs, so what is expected to take less than a limit
runs inline; the expectation comes from the measurement at load. ONNX Runtime releases the GIL and
its `run` is thread-safe, so the threads share one session.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from slimq.core.errors import NonFiniteError
from slimq.core.observation import Observations
from slimq.core.qfunction import QValues
from slimq_service.batching import Batcher, BatchLimits, Inference
from slimq_service.metrics import Metrics
from slimq_service.model import LoadedVariant


class Engine:
    """Computes Q-values for requests."""

    def __init__(
        self, inline_seconds: float, threads: int, limits: BatchLimits, metrics: Metrics
    ) -> None:
        self.threads = ThreadPoolExecutor(threads, "slimq-inference")
        self._inline_seconds = inline_seconds
        self._batcher = Batcher(self.threads, threads, limits, metrics)

    async def run(self, variant: LoadedVariant, observations: Observations) -> Inference:
        """The Q-values of a checked batch.

        Raises:
            NonFiniteError: they are not all finite.
            OverloadedError: too many requests wait already.
            DeadlineError: its turn did not come in time.
        """
        if variant.cost.seconds(len(observations)) <= self._inline_seconds:
            started = time.perf_counter()
            q_values = variant.q_function(observations)
            result = Inference(q_values, time.perf_counter() - started)
        else:
            result = await self._batcher.run(variant, observations)
        check_finite(result.q_values)
        return result

    def close(self) -> None:
        """Ends the threads once their work is done."""
        self.threads.shutdown(wait=True, cancel_futures=True)


def check_finite(q_values: QValues) -> None:
    """Refuses Q-values that JSON could not even say.

    Raises:
        NonFiniteError: naming the first observation whose Q-values are not finite.
    """
    finite = np.isfinite(q_values)
    if finite.all():
        return
    row = int(np.argmin(finite.all(axis=1)))
    received = ", ".join(f"{value:g}" for value in q_values[row][:16])
    raise NonFiniteError(f"observations[{row}]", "observations with finite Q-values", received)
