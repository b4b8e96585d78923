"""Where inference runs: small work on the event loop, larger work in threads of its own.

Handing a 15 µs model to a thread costs about 130 µs, so what is expected to take less than a limit
runs inline; the expectation comes from the measurement at load. ONNX Runtime releases the GIL and
its `run` is thread-safe, so the threads share one session.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from slimq.core.errors import NonFiniteError
from slimq.core.observation import Observations
from slimq.core.qfunction import QFunction, QValues
from slimq_service.model import LoadedVariant


@dataclass(frozen=True)
class Inference:
    """Q-values `(batch, actions)` and the seconds that the model took."""

    q_values: QValues
    seconds: float


class Engine:
    """Computes Q-values for requests."""

    def __init__(self, inline_seconds: float, threads: int) -> None:
        self.threads = ThreadPoolExecutor(threads, "slimq-inference")
        self._inline_seconds = inline_seconds

    async def run(self, variant: LoadedVariant, observations: Observations) -> Inference:
        """The Q-values of a checked batch.

        Raises:
            NonFiniteError: they are not all finite.
        """
        if variant.cost.seconds(len(observations)) <= self._inline_seconds:
            result = _timed(variant.q_function, observations)
        else:
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(
                self.threads, _timed, variant.q_function, observations
            )
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


def _timed(q_function: QFunction, observations: Observations) -> Inference:
    started = time.perf_counter()
    q_values = q_function(observations)
    return Inference(q_values, time.perf_counter() - started)
