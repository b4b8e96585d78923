"""Whether a request came alone, which says how it is best computed.

A server reads everything that has arrived in one turn of the event loop, and starts answering in
the next. So the first that is answered can be told how many others are about to come.
"""

from __future__ import annotations


class Arrivals:
    """Counts what the server has read."""

    __slots__ = ("_count",)

    def __init__(self) -> None:
        self._count = 0

    @property
    def alone(self) -> bool:
        """Whether one request was read since `forget`, so that no other is about to come.

        False where nobody counts, as for messages of streams, or with h11.
        """
        return self._count == 1

    def note(self) -> None:
        """One was read."""
        self._count += 1

    def forget(self) -> None:
        """Those that were read are answered, or at least here."""
        self._count = 0
