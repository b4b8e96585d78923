from __future__ import annotations

import asyncio
from typing import Any

from slimq_service.inference.arrivals import Arrivals


def test_a_request_comes_from_when_it_was_read_until_it_begins_to_be_answered() -> None:
    arrivals = Arrivals()
    found: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append((scope, receive, send, arrivals.coming))

    assert not arrivals.counted
    apps = [arrivals.note(app) for _ in range(3)]
    assert (arrivals.counted, arrivals.coming) == (True, 3)

    async def run() -> None:
        for number, begin in enumerate(apps):
            await begin(number, "receive", "send")

    asyncio.run(run())
    assert found == [(number, "receive", "send", 2 - number) for number in range(3)]
    assert arrivals.coming == 0
