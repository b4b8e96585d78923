"""The end of a load test before its plan's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import cast


class TimeIsUpError(Exception):
    """The plan's time is over; what was measured stands."""


class StoppedError(Exception):
    """Somebody has asked for the end; what was measured stands."""


class Stop:
    """Asks for the end of a plan, from a signal handler or another thread.

    Attributes:
        asked: whether it was.
    """

    def __init__(self) -> None:
        self.asked = False
        self._cancel: Callable[[], object] = lambda: None

    def ask(self) -> None:
        """Ends the plan at once; asking again changes nothing."""
        if not self.asked:
            self.asked = True
            self._cancel()

    def bind(self) -> None:
        """Has the task that calls this cancelled when it is asked for, or now if it was."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._cancel = partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)
        if self.asked:
            task.cancel()

    def release(self) -> None:
        """There is nothing to end any more."""
        self._cancel = lambda: None
