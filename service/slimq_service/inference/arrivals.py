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
