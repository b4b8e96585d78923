"""A lean thread pool for the event loop.

A `ThreadPoolExecutor` creates two futures, a condition and a lock per task, which costs more CPU
time than running many models; here a task is a queue entry and a callback.
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
    """A pool of up to `count` threads, started on demand."""

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._waiting: SimpleQueue[Work | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False
        _OPEN.add(self)

    def start(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Runs a task in a thread.

        Args:
            work: the task.
            done: called in the event loop with the result of `work`, or the exception it raised.

        Raises:
            RuntimeError: the pool is closed, or no thread can be started.
        """
        if self._closed:
            raise RuntimeError("the thread pool is closed")
        if len(self._threads) < self._count:
            name = f"{self._name}-{len(self._threads)}"
            thread = threading.Thread(target=_work, args=(self._waiting,), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the running threads will get to it later
                if not self._threads:
                    raise
            else:
                self._threads.append(thread)
        self._waiting.put((asyncio.get_running_loop(), work, done))

    async def handoff_seconds(self, rounds: int = 32) -> float:
        """Median seconds from the event loop to a thread and back, without any work."""
        loop, times = asyncio.get_running_loop(), []
        for _ in range(rounds):
            future: asyncio.Future[None] = loop.create_future()
            began = time.perf_counter()
            self.start(_nothing, future.set_result)
            await future
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def close(self) -> None:
        """Refuses new tasks, and returns once all accepted ones are done."""
        if not self._closed:
            self._closed = True
            self._release()
        for thread in self._threads:
            thread.join()

    def __del__(self) -> None:
        if not self._closed:
            self._release()

    def _release(self) -> None:
        """Makes each thread end after the queued tasks."""
        for _ in self._threads:
            self._waiting.put(None)


_OPEN: weakref.WeakSet[Threads] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Closes every pool: a thread still running at interpreter exit would abort the process."""
    for threads in list(_OPEN):
        threads.close()


def _nothing() -> None:
    """A task that takes no time."""


def _work(waiting: SimpleQueue[Work | None]) -> None:
    while (taken := waiting.get()) is not None:
        loop, work, done = taken
        try:
            result = work()
        except BaseException as error:
            result = error
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(done, result)
        del taken, work, done, result  # hold no references while idle
