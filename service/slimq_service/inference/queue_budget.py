"""The limits on queued requests and their bytes in this process, whichever queue they are in.

Bodies queued for decoding and observations queued for a model share one budget, since they share
the same memory. All state belongs to the event loop.
"""

from __future__ import annotations

from collections.abc import Callable

from slimq_service.errors import OverloadedError
from slimq_service.metrics.instruments import Gauge


class QueueBudget:
    """Counts queued requests and bytes, and refuses those over the limits."""

    def __init__(self, requests: int, size: int, depth_gauge: Gauge, size_gauge: Gauge) -> None:
        """Makes an empty budget.

        Args:
            requests: maximum number of queued requests.
            size: maximum number of queued bytes.
            depth_gauge: gauge of queued requests.
            size_gauge: gauge of queued bytes.
        """
        self._max_requests, self._max_bytes = requests, size
        self._depth_gauge, self._size_gauge = depth_gauge, size_gauge
        self.requests = 0
        self.bytes = 0

    def fits(self, size: int) -> bool:
        """Whether one more request of this size fits in the budget."""
        return self.requests < self._max_requests and self.bytes + size <= self._max_bytes

    def reserve(self, size: int, retry_after: Callable[[], int]) -> None:
        """Takes a request into the budget.

        Args:
            size: its bytes.
            retry_after: seconds until a retry may succeed, for the error.

        Raises:
            OverloadedError: the request exceeds the budget.
        """
        if self.requests >= self._max_requests:
            raise OverloadedError(self._max_requests, retry_after())
        if self.bytes + size > self._max_bytes:
            raise OverloadedError(self._max_bytes, retry_after(), "bytes")
        self._change(1, size)

    def release(self, size: int) -> None:
        """Returns a request's share to the budget."""
        self._change(-1, -size)

    def _change(self, requests: int, size: int) -> None:
        self.requests += requests
        self.bytes += size
        self._depth_gauge.set(self.requests)
        self._size_gauge.set(self.bytes)
