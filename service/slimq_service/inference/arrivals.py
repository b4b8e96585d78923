"""Requests that were read but not started, which decide how the current one is best computed.

The server reads all requests that have arrived in one turn of the event loop and starts them in the
next, so the first of them can know how many follow.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

App = Callable[[Any, Any, Any], Awaitable[None]]


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

    def note(self, app: App) -> App:
        """Counts a request that was read.

        Args:
            app: the application that will handle it.

        Returns:
            The application, wrapped so that calling it ends the count.
        """
        self.pending += 1
        self.tracked = True

        def begin(scope: Any, receive: Any, send: Any) -> Awaitable[None]:
            self.pending -= 1
            return app(scope, receive, send)

        return begin
