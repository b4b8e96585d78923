from __future__ import annotations

import asyncio
import time

from samples import sample_value
from slimq_service.metrics.event_loop_lag import watch_lag
from slimq_service.metrics.registry import Registry

NAME = "lag_seconds"


def test_a_loop_that_is_held_up_is_seen_and_one_that_is_not_hardly() -> None:
    registry = Registry()
    lag = registry.histogram(NAME, "Lag", (), (0.2,)).labels()

    async def hold_up(seconds: float) -> None:
        watching = asyncio.create_task(watch_lag(lag, 0.01))
        await asyncio.sleep(0.05)
        time.sleep(seconds)
        await asyncio.sleep(0.05)
        watching.cancel()

    asyncio.run(hold_up(0.5))
    counted = sample_value(registry, NAME + "_count")
    below = sample_value(registry, NAME + "_bucket", {"le": "0.2"})
    assert counted is not None
    assert below is not None
    assert counted - below == 1
    assert below >= 2
    total = sample_value(registry, NAME + "_sum")
    assert total is not None
    assert total > 0.4
