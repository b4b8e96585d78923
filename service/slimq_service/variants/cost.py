"""Time of a variant's runs by batch size, measured on this processor when the variant is loaded."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from slimq.core.observation import ObservationSpec
from slimq.core.qfunction import QFunction

REPEATS, REPEAT_SECONDS = 3, 10e-3
"""Maximum number of measured runs of each batch size after a warm-up, of which the fastest counts;
no more are started once they have taken this many seconds."""
DISPATCH_SECONDS = 50e-6
"""Overhead of a batch in addition to its run: forming it, and the handoff to a thread and back."""
BEST_TOLERANCE = 0.15
"""Relative excess over the lowest cost per observation that may be noise."""


@dataclass(frozen=True)
class Cost:
    """Expected seconds of one run.

    Attributes:
        table: by batch size, from 1 on.
        best_batch: the largest batch size with a cost per observation near the minimum.
    """

    table: tuple[float, ...]
    best_batch: int

    @classmethod
    def of(cls, measured: Mapping[int, float]) -> Cost:
        """The cost of every batch size up to the largest measured one.

        Args:
            measured: seconds by batch size; sizes in between are interpolated.
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
        """Expected seconds per observation in a batch of the best size."""
        return self.seconds(self.best_batch) / self.best_batch

    def largest_batch(self, seconds: float) -> int:
        """The largest batch size, of those in the table, expected to take no longer; at least 1."""
        return max(1, bisect_right(self.table, seconds))

    def seconds(self, batch: int) -> float:
        """Expected seconds for a batch; extrapolated in proportion beyond the table."""
        table = self.table
        if batch <= len(table):
            return table[batch - 1]
        return table[-1] * (batch / len(table))


def measure(q_function: QFunction, spec: ObservationSpec, max_batch: int) -> Cost:
    """Times batches of zeros: every power of two below `max_batch`, and `max_batch` itself.

    This also warms them up: the first run of a batch size allocates memory.

    Args:
        q_function: what to measure.
        spec: the layout of one observation.
        max_batch: largest batch size to measure.
    """
    sizes = {2**step for step in range(max_batch.bit_length())} | {max_batch}
    measured: dict[int, float] = {}
    for batch in sorted(sizes):
        zeros = spec.zeros(batch)
        q_function(zeros)
        times: list[float] = []
        while len(times) < REPEATS and sum(times) < REPEAT_SECONDS:
            started = time.perf_counter()
            q_function(zeros)
            times.append(time.perf_counter() - started)
        measured[batch] = min(times)
    return Cost.of(measured)
