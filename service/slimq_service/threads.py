"""Threads that compute for the event loop.

A `ThreadPoolExecutor` makes two futures, a condition and a lock for every piece of work, which
costs more processor time than many a model does; here it is an entry in a queue and a callback.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

Work = tuple[asyncio.AbstractEventLoop, Callable[[], Any], Callable[[Any], None]]


class Threads:
    """As many as can work at a time; they begin with the first piece of work."""

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._waiting: SimpleQueue[Work | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def start(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Has a thread do something.

        Args:
            work: what is to be done.
            done: called in the event loop with what `work` returned, or the exception it raised.

        Raises:
            RuntimeError: the threads have ended, or there can be none.
        """
        if self._closed:
            raise RuntimeError("the threads have ended")
        while len(self._threads) < self._count:
            thread = threading.Thread(
                target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                if not self._threads:
                    raise
                break  # those that there are do it, only later
            self._threads.append(thread)
        self._waiting.put((asyncio.get_running_loop(), work, done))

    def close(self) -> None:
        """Takes no more work, and returns once all that was taken is done."""
        self._closed = True
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while True:
            taken = self._waiting.get()
            if taken is None:
                return
            loop, work, done = taken
            try:
                result = work()
            except BaseException as error:
                result = error
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(done, result)
            del taken, work, done, result  # nothing of it is kept until the next
