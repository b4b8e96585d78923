"""Decodes large bodies in separate threads, so that neither the event loop nor inference waits.

Bodies that find no free thread are queued like other work: within the same budget, in order, until
the same deadline, and only while their client is connected.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from slimq_service.errors import DeadlineError
from slimq_service.http.bodies import Receive, cancel_on_disconnect
from slimq_service.inference.queue_budget import QueueBudget

READING_THREADS = 2
"""Most of the work holds the GIL, so more threads would gain little."""
RETRY_SECONDS = 1
"""Suggested to clients when the queue is full: a body takes milliseconds."""


@dataclass(frozen=True)
class Reading:
    """A decoded body, with the seconds it was queued for a thread and the seconds decoding took."""

    content: Any
    queue_seconds: float
    seconds: float


class Reader:
    """A thread pool that decodes bodies.

    Attributes:
        waiting: the number of bodies queued for a thread.
    """

    def __init__(self, seconds: float, budget: QueueBudget, threads: int = READING_THREADS) -> None:
        """Creates the pool.

        Args:
            seconds: longest time that a request is queued in all.
            budget: the budget that queued bodies take from.
            threads: the number of threads.
        """
        self._threads = ThreadPoolExecutor(threads, "slimq-reading")
        self._free = asyncio.Semaphore(threads)
        self._seconds, self._budget = seconds, budget
        self.waiting = 0

    async def run(
        self, function: Callable[[], Any], size: int, receive: Receive, waited: float = 0.0
    ) -> Reading:
        """Runs a function that decodes a body.

        Args:
            function: decodes the body.
            size: bytes of the body.
            receive: the request's ASGI channel, once its body is complete.
            waited: seconds the request has already been queued.

        Raises:
            OverloadedError: the queue is full.
            DeadlineError: the request was queued for too long.
            ClientGoneError: the client closed the connection while the request was queued.
        """
        arrived = time.perf_counter()
        if self._free.locked():
            await self._wait(size, receive, self._seconds - waited)
        else:
            await self._free.acquire()
        try:
            loop = asyncio.get_running_loop()
            done = loop.run_in_executor(self._threads, _timed, function)
        except BaseException:
            self._free.release()
            raise
        done.add_done_callback(lambda _: self._free.release())
        content, started, seconds = await done
        return Reading(content, started - arrived, seconds)

    def close(self) -> None:
        """Ends the threads once their work is done."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _wait(self, size: int, receive: Receive, seconds: float) -> None:
        self._budget.reserve(size, lambda: RETRY_SECONDS)
        self.waiting += 1
        turn = asyncio.ensure_future(self._free.acquire())
        try:
            async with asyncio.timeout(seconds):
                await cancel_on_disconnect(receive, turn)
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # acquired at the same moment
                self._free.release()
            if isinstance(error, TimeoutError):
                raise DeadlineError(self._seconds) from None
            raise
        finally:
            self.waiting -= 1
            self._budget.release(size)


def _timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
    started = time.perf_counter()
    content = function()
    return content, started, time.perf_counter() - started
