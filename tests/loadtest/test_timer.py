from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from slimq.loadtest.timer import PreciseTimer


def tick(delays: list[float]) -> list[float]:
    """How late each call came, in seconds."""
    late: list[float] = []

    async def run() -> None:
        heard = asyncio.Event()

        def call() -> None:
            late.append(time.perf_counter() - due)
            heard.set()

        ticker = PreciseTimer(call)
        try:
            for delay in delays:
                heard.clear()
                due = time.perf_counter() + delay
                ticker.set(due)
                await asyncio.wait_for(heard.wait(), 5)
        finally:
            ticker.close()

    asyncio.run(run())
    return late


def test_it_calls_at_its_time_and_not_before() -> None:
    late = tick([0.003, 0.0105, 0.0, -1.0])
    assert len(late) == 4
    assert min(late) > -20e-6


def test_the_best_of_many_is_far_below_a_millisecond_late() -> None:
    if sys.platform != "linux":
        pytest.skip("timers of the event loop are rounded to milliseconds")
    assert min(tick([0.0013] * 20)) < 0.0006


@pytest.mark.skipif(sys.platform != "linux", reason="counts files in /proc")
def test_it_gives_its_file_back() -> None:
    def count() -> int:
        return len(list(Path(f"/proc/{os.getpid()}/fd").iterdir()))

    before = count()
    tick([0.001])
    assert count() == before


def test_without_timerfd_the_loops_timer_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimq.loadtest.timer.sys.platform", "darwin")
    late = tick([0.003, 0.0])
    assert len(late) == 2
    assert min(late) > -0.001
