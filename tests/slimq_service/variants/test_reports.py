from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

from slimq_service.variants.reports import Reports


def test_a_report_is_read_again_only_when_it_changed() -> None:
    asked: list[tuple[str, str]] = []

    def report(policy: str, variant: str) -> object:
        asked.append((policy, variant))
        return len(asked)

    def manifest(sha256: str | None) -> Any:
        entry = None if sha256 is None else SimpleNamespace(sha256=sha256)
        return SimpleNamespace(policy="tiny", name="fp32", report=entry)

    async def read() -> list[Any]:
        return [await reports.read(manifest(sha256)) for sha256 in (None, "a", "a", "b", "a")]

    repository: Any = SimpleNamespace(report=report)
    with ThreadPoolExecutor(1) as thread:
        reports = Reports(repository, thread)
        assert asyncio.run(read()) == [None, 1, 1, 2, 3]
    assert asked == [("tiny", "fp32")] * 3
