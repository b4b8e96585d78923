from __future__ import annotations

import asyncio
from typing import Any

from slimq_service.inference.arrivals import Arrivals


def test_a_request_is_pending_from_when_it_is_read_until_it_starts() -> None:
    arrivals = Arrivals()
    found: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append((scope, receive, send, arrivals.pending))

    assert not arrivals.tracked
    apps = [arrivals.note(app) for _ in range(3)]
    assert (arrivals.tracked, arrivals.pending) == (True, 3)

    async def run() -> None:
        for number, begin in enumerate(apps):
            await begin(number, "receive", "send")

    asyncio.run(run())
    assert found == [(number, "receive", "send", 2 - number) for number in range(3)]
    assert arrivals.pending == 0
