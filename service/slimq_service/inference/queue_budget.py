"""What may wait in this process: so many requests, and so many bytes of theirs, wherever they wait.

Bodies that wait to be read and observations that wait for the model share one limit, since they
share one memory. All of it belongs to the event loop.
"""

from __future__ import annotations

from collections.abc import Callable

from slimq_service.errors import OverloadedError
from slimq_service.metrics.instruments import Gauge


class QueueBudget:
    """Counts what waits, and refuses what there is no room for."""

    def __init__(self, requests: int, size: int, depth: Gauge, filled: Gauge) -> None:
        """Makes an empty budget.

        Args:
            requests: most that may wait.
            size: most bytes of theirs.
            depth: is kept at how many wait.
            filled: is kept at their bytes.
        """
        self._most_requests, self._most_bytes = requests, size
        self._depth, self._filled = depth, filled
        self.requests = 0
        self.bytes = 0

    def fits(self, size: int) -> bool:
        """Whether there is room for one more, of so many bytes."""
        return self.requests < self._most_requests and self.bytes + size <= self._most_bytes

    def reserve(self, size: int, retry_after: Callable[[], int]) -> None:
        """Lets a request wait.

        Args:
            size: its bytes.
            retry_after: in how many seconds there may be budget, for the error.

        Raises:
            OverloadedError: there is no room for it.
        """
        if self.requests >= self._most_requests:
            raise OverloadedError(self._most_requests, retry_after())
        if self.bytes + size > self._most_bytes:
            raise OverloadedError(self._most_bytes, retry_after(), "bytes")
        self._change(1, size)

    def release(self, size: int) -> None:
        """One that had entered waits no longer."""
        self._change(-1, -size)

    def _change(self, requests: int, size: int) -> None:
        self.requests += requests
        self.bytes += size
        self._depth.set(self.requests)
        self._filled.set(self.bytes)
