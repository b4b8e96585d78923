"""Reads large bodies in threads of their own, so that neither the event loop nor inference waits.

What finds no free thread waits like everything else: within the room that there is, in order, up to
the same deadline, and only while its client is there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from slimq_service.errors import DeadlineError
from slimq_service.http.bodies import Receive, unless_gone
from slimq_service.inference.queue_budget import QueueBudget

READING_THREADS = 2
"""Threads; most of the work holds the interpreter's lock, so that more would gain little."""
RETRY_SECONDS = 1
"""When to come again where there is no budget: bodies take milliseconds."""


@dataclass(frozen=True)
class Reading:
    """What was read, and the seconds that it waited for a thread and that it took."""

    content: Any
    queue_seconds: float
    seconds: float


class Reader:
    """Runs functions that read bodies.

    Attributes:
        waiting: how many bodies wait for a thread.
    """

    def __init__(self, seconds: float, budget: QueueBudget, threads: int = READING_THREADS) -> None:
        """Makes the threads.

        Args:
            seconds: longest time that a request waits in all.
            budget: what may wait.
            threads: how many there are.
        """
        self._threads = ThreadPoolExecutor(threads, "slimq-reading")
        self._free = asyncio.Semaphore(threads)
        self._seconds, self._budget = seconds, budget
        self.waiting = 0

    async def run(
        self, function: Callable[[], Any], size: int, receive: Receive, waited: float = 0.0
    ) -> Reading:
        """What a function returns that reads a body.

        Args:
            function: what is to be done.
            size: bytes of the body.
            receive: the request's ASGI channel, once its body is whole.
            waited: seconds that the request has waited before.

        Raises:
            OverloadedError: too much waits already.
            DeadlineError: its turn did not come in time.
            ClientGoneError: the client closed the connection while it waited.
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
                await unless_gone(receive, turn)
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # its turn came in the same moment
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
