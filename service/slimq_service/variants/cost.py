"""Time of a variant's runs by batch size, measured on this processor when the variant is loaded."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from slimq.core.observation import ObservationSpec
from slimq.core.qfunction import QFunction

REPEATS = 3
"""Measured runs of a single observation; a larger batch is measured once, after a warm-up."""
DISPATCH_SECONDS = 50e-6
"""Of a batch beside its run: what it costs to form it, and to hand it to a thread and back."""
BEST_TOLERANCE = 0.15
"""How much more an observation may cost than in the cheapest batch: less may be noise."""


@dataclass(frozen=True)
class Cost:
    """Expected seconds of one run.

    Attributes:
        table: by batch size, from 1 on.
        best_batch: the largest batch in which an observation costs hardly more than in any.
    """

    table: tuple[float, ...]
    best_batch: int

    @classmethod
    def of(cls, measured: Mapping[int, float]) -> Cost:
        """The cost of every batch size up to the largest measured one.

        Args:
            measured: seconds by batch size; what lies between is interpolated.
        """
        sizes = sorted(measured)
        seconds = [measured[size] for size in sizes]
        table = np.interp(np.arange(1, sizes[-1] + 1), sizes, seconds)
        each = {size: (measured[size] + DISPATCH_SECONDS) / size for size in sizes}
        limit = min(each.values()) * (1 + BEST_TOLERANCE)
        best = max(size for size in sizes if each[size] <= limit)
        return cls(tuple(table.tolist()), best)

    @property
    def per_observation(self) -> float:
        """Seconds of an observation in the best batch."""
        return self.seconds(self.best_batch) / self.best_batch

    def seconds(self, batch: int) -> float:
        """Expected seconds for a batch; beyond the table, in proportion."""
        table = self.table
        if batch <= len(table):
            return table[batch - 1]
        return table[-1] * (batch / len(table))


def measure(q_function: QFunction, spec: ObservationSpec, largest_batch: int) -> Cost:
    """Runs zeros of every power of two up to a batch size, and of that, which also warms them up.

    The first run of a batch size allocates, and no request is to wait for that.

    Args:
        q_function: what to measure.
        spec: the layout of one observation.
        largest_batch: up to which batches are measured.
    """
    sizes = {2**step for step in range(largest_batch.bit_length())} | {largest_batch}
    measured: dict[int, float] = {}
    for batch in sorted(sizes):
        zeros = np.zeros((batch, *spec.shape), dtype=spec.numpy_dtype)
        q_function(zeros)
        times = []
        for _ in range(REPEATS if batch == 1 else 1):
            started = time.perf_counter()
            q_function(zeros)
            times.append(time.perf_counter() - started)
        measured[batch] = min(times)
    return Cost.of(measured)
