"""Requests that were read but not started, which decide how the current one is best computed.

The server reads all requests that have arrived in one turn of the event loop and starts them in the
next, so the first of them can know how many follow.
"""

from __future__ import annotations


class Arrivals:
    """Counts requests that were read but not started.

    Attributes:
        pending: the number of those requests.
        tracked: whether any request has been counted; h11 and streams do not count theirs.
    """

    __slots__ = ("pending", "tracked")

    def __init__(self) -> None:
        self.pending = 0
        self.tracked = False

    def read(self) -> None:
        """Counts a request that was read."""
        self.pending += 1
        self.tracked = True

    def start(self) -> None:
        """Ends the count of a request that is started."""
        self.pending -= 1
