"""How late the event loop is: whatever keeps it busy keeps every request of the process waiting."""

from __future__ import annotations

import asyncio
import time

from slimq_service.metrics.instruments import Histogram

PERIOD_SECONDS = 0.1
"""Between two looks: a stall that lasts longer is always seen, a shorter one by chance."""


async def watch_lag(lag: Histogram, seconds: float = PERIOD_SECONDS) -> None:
    """Sleeps again and again, and counts how much too late it is woken, until cancelled.

    Args:
        lag: of seconds.
        seconds: to sleep.
    """
    while True:
        due = time.perf_counter() + seconds
        await asyncio.sleep(seconds)
        lag.observe(max(0.0, time.perf_counter() - due))
