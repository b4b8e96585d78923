"""Event-loop wake-up delay: a blocked loop delays every request of the process."""

from __future__ import annotations

import asyncio
import time

from slimq_service.metrics.instruments import Histogram

PERIOD_SECONDS = 0.1
"""Interval of the measurements: longer stalls are always seen, shorter ones by chance."""


async def watch_lag(lag: Histogram, seconds: float = PERIOD_SECONDS) -> None:
    """Sleeps repeatedly and measures how late it is woken, until cancelled.

    Args:
        lag: histogram of the delays.
        seconds: how long to sleep.
    """
    while True:
        due = time.perf_counter() + seconds
        await asyncio.sleep(seconds)
        lag.observe(max(0.0, time.perf_counter() - due))
