"""Early end of a load test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import cast


class TimeIsUpError(Exception):
    """The time limit was reached; measurements so far are kept."""


class StoppedError(Exception):
    """A stop was requested; measurements so far are kept."""


class Stop:
    """Requests the end of a plan, from a signal handler or another thread.

    Attributes:
        requested: whether a stop was requested.
    """

    def __init__(self) -> None:
        self.requested = False
        self._cancel: Callable[[], object] = lambda: None

    def request(self) -> None:
        """Ends the plan at once; further requests have no effect."""
        if not self.requested:
            self.requested = True
            self._cancel()

    def bind(self) -> None:
        """Has the calling task cancelled on request, or now if already requested."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._cancel = partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)
        if self.requested:
            task.cancel()

    def release(self) -> None:
        """Unbinds the task: requests no longer cancel it."""
        self._cancel = lambda: None
