from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from slimq_service.api.stream.refusal import refuse_stream
from slimq_service.http.problems import make_problem

PROBLEM = make_problem(503, "overloaded", "full", retry_after=7)


def test_a_refusal_waits_until_the_connection_is_gone_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("slimq_service.http.websocket_denial.DISCONNECT_SECONDS", 0.1)
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"extensions": {"websocket.http.response": {}}}
    began = time.monotonic()
    asyncio.run(refuse_stream(scope, receive, send, PROBLEM))
    assert 0.1 <= time.monotonic() - began < 10
    start, body = sent
    assert start["status"] == 503
    assert (b"retry-after", b"7") in start["headers"]
    assert (b"content-length", str(len(body["body"])).encode()) in start["headers"]
