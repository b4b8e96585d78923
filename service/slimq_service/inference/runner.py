"""The runners of batches: threads, or the event loop itself between other work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol


class Runner(Protocol):
    """Runs work, as `Threads` does."""

    def start(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Has `work` done, and `done` called in the event loop with its result or exception."""


class InLoop:
    """Runs batches in the event loop, each in a turn of its own."""

    def start(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """See `Runner.start`."""
        asyncio.get_running_loop().call_soon(self._run, work, done)

    def _run(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        try:
            result = work()
        except Exception as error:
            result = error
        done(result)
