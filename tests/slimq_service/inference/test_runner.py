from __future__ import annotations

import asyncio
from typing import Any

from slimq_service.inference.runner import InLoop


def test_work_is_done_in_a_turn_of_its_own_and_its_outcome_delivered() -> None:
    async def run() -> None:
        happened: list[Any] = []
        runner = InLoop()
        runner.start(lambda: happened.append("work"), lambda result: happened.append(result))
        runner.start(lambda: 1 // 0, lambda result: happened.append(type(result)))
        assert happened == []
        await asyncio.sleep(0)
        assert happened == ["work", None, ZeroDivisionError]

    asyncio.run(run())
