"""Limits of batches and of the queue."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slimq_service.variants.cost import Cost


@dataclass(frozen=True)
class BatchLimits:
    """Limits of batches and of the queue.

    Attributes:
        observations: maximum number in a formed batch; a larger request is a batch of its own.
        waiting: maximum number of queued requests, over all variants.
        seconds: longest time in the queue.
        size: maximum number of queued bytes, over all variants.
        alone_seconds: longest run in the event loop for a request that is alone.
        batch_seconds: longest expected run of a formed batch.
        reason: what every batch is counted as, None for why it was dispatched.
    """

    observations: int
    waiting: int
    seconds: float
    size: int = 256 * 2**20
    alone_seconds: float = 0.0
    batch_seconds: float = math.inf
    reason: str | None = None

    def largest_batch(self, cost: Cost) -> int:
        """Most observations of a formed batch of a variant with this cost."""
        longest = cost.largest_batch(self.batch_seconds)
        return min(self.observations, cost.best_batch, longest)
