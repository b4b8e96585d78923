from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from slimq_service.errors import DeadlineError, OverloadedError
from slimq_service.http.bodies import ClientGoneError
from slimq_service.inference.body_reader import Reader
from slimq_service.inference.queue_budget import QueueBudget
from slimq_service.metrics.registry import Registry
from slimq_service.metrics.service import Metrics


async def stays() -> Any:
    await asyncio.Event().wait()


async def leaves() -> Any:
    return {"type": "http.disconnect"}


class Bench:
    """A reader with one thread, which is kept busy until it is let go."""

    def __init__(self, seconds: float = 30.0, requests: int = 9, size: int = 100) -> None:
        metrics = Metrics(Registry())
        self.budget = QueueBudget(requests, size, metrics.queue_depth, metrics.queue_bytes)
        self.reader = Reader(seconds, self.budget, threads=1)
        self.open = threading.Event()
        self.first = self.start(lambda: self.open.wait(10))

    def start(
        self,
        function: Callable[[], Any] = lambda: "read",
        size: int = 1,
        receive: Callable[[], Awaitable[Any]] = stays,
        waited: float = 0.0,
    ) -> asyncio.Task[Any]:
        return asyncio.ensure_future(self.reader.run(function, size, receive, waited))

    async def end(self) -> None:
        self.open.set()
        await self.first
        assert (await self.start()).content == "read", "the thread is free again"
        assert (self.budget.requests, self.budget.bytes) == (0, 0)
        self.reader.close()


def test_a_decoded_body_comes_with_its_times() -> None:
    async def run() -> None:
        bench = Bench()
        second = bench.start()
        await asyncio.sleep(0.1)
        assert bench.budget.requests == 1
        bench.open.set()
        reading = await second
        assert (await bench.first).seconds >= 0.02
        assert reading.content == "read"
        assert reading.queue_seconds >= 0.05 > reading.seconds
        await bench.end()

    asyncio.run(run())


@pytest.mark.parametrize(("requests", "size"), [(1, 100), (9, 1)])
def test_bodies_over_the_queue_budget_are_refused(requests: int, size: int) -> None:
    async def run() -> None:
        bench = Bench(requests=requests, size=size)
        waiting = bench.start()
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await bench.start()
        bench.open.set()
        await waiting
        await bench.end()

    asyncio.run(run())


@pytest.mark.parametrize(("seconds", "waited"), [(0.02, 0.0), (30.0, 29.98)])
def test_a_queued_body_fails_at_its_deadline(seconds: float, waited: float) -> None:
    async def run() -> None:
        bench = Bench(seconds)
        await asyncio.sleep(0)
        with pytest.raises(DeadlineError, match=f"queued for {seconds:g} s"):
            async with asyncio.timeout(5):
                await bench.start(waited=waited)
        assert bench.budget.requests == 0
        await bench.end()

    asyncio.run(run())


def test_a_client_that_disconnects_leaves_the_queue() -> None:
    async def run() -> None:
        bench = Bench()
        await asyncio.sleep(0)
        with pytest.raises(ClientGoneError):
            await bench.start(receive=leaves)
        assert bench.budget.requests == 0
        await bench.end()

    asyncio.run(run())


def test_an_error_is_raised_to_the_caller_and_frees_the_thread() -> None:
    async def run() -> None:
        bench = Bench()
        wrong = bench.start(lambda: int("x"))
        bench.open.set()
        with pytest.raises(ValueError, match="invalid literal"):
            await wrong
        await bench.end()

    asyncio.run(run())


@pytest.mark.parametrize("steps", range(8))
def test_a_request_cancelled_as_a_thread_becomes_free_releases_it(
    steps: int,
) -> None:
    async def run() -> None:
        bench = Bench()
        waiting = bench.start()
        await asyncio.sleep(0)
        bench.open.set()
        await bench.first
        for _ in range(steps):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        async with asyncio.timeout(5):
            await bench.end()

    asyncio.run(run())
