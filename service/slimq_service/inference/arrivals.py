"""Whether others are about to come, which says how a request is best computed.

A server reads everything that has arrived in one turn of the event loop, and begins to answer in
the next. So the first of them can be told that there are more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

App = Callable[[Any, Any, Any], Awaitable[None]]


class Arrivals:
    """Counts the requests that were read and have not yet begun to be answered.

    Attributes:
        coming: how many there are.
        counted: whether anybody counts at all; h11 does not, nor do streams.
    """

    __slots__ = ("coming", "counted")

    def __init__(self) -> None:
        self.coming = 0
        self.counted = False

    def note(self, app: App) -> App:
        """Counts one that was read.

        Args:
            app: what is going to answer it.

        Returns:
            The same, which has it come no longer once it is called.
        """
        self.coming += 1
        self.counted = True

        def begin(scope: Any, receive: Any, send: Any) -> Awaitable[None]:
            self.coming -= 1
            return app(scope, receive, send)

        return begin
