"""Threads that compute for the event loop.

A `ThreadPoolExecutor` makes two futures, a condition and a lock for every piece of work, which
costs more processor time than many a model does; here it is an entry in a queue and a callback.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import statistics
import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

Work = tuple[asyncio.AbstractEventLoop, Callable[[], Any], Callable[[Any], None]]


class Threads:
    """As many as can work at a time; each begins with a piece of work."""

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._waiting: SimpleQueue[Work | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False
        _OPEN.add(self)

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
        if len(self._threads) < self._count:
            name = f"{self._name}-{len(self._threads)}"
            thread = threading.Thread(target=_work, args=(self._waiting,), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # those that there are do it, only later
                if not self._threads:
                    raise
            else:
                self._threads.append(thread)
        self._waiting.put((asyncio.get_running_loop(), work, done))

    async def handoff_seconds(self, rounds: int = 32) -> float:
        """Seconds from the event loop to a thread and back, without any work: a median."""
        loop, times = asyncio.get_running_loop(), []
        for _ in range(rounds):
            future: asyncio.Future[None] = loop.create_future()
            began = time.perf_counter()
            self.start(_nothing, future.set_result)
            await future
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def close(self) -> None:
        """Takes no more work, and returns once all that was taken is done."""
        if not self._closed:
            self._closed = True
            self._release()
        for thread in self._threads:
            thread.join()

    def __del__(self) -> None:
        if not self._closed:
            self._release()

    def _release(self) -> None:
        """Has each thread end behind the work that waits."""
        for _ in self._threads:
            self._waiting.put(None)


_OPEN: weakref.WeakSet[Threads] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A thread that is at work when the interpreter ends would abort it."""
    for threads in list(_OPEN):
        threads.close()


def _nothing() -> None:
    """Work that takes no time."""


def _work(waiting: SimpleQueue[Work | None]) -> None:
    while (taken := waiting.get()) is not None:
        loop, work, done = taken
        try:
            result = work()
        except BaseException as error:
            result = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(done, result)
        del taken, work, done, result  # nothing of it is kept until the next
