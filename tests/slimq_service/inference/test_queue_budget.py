from __future__ import annotations

import pytest

from samples import sample_value
from slimq_service.errors import OverloadedError
from slimq_service.inference.queue_budget import QueueBudget
from slimq_service.metrics.registry import Registry
from slimq_service.metrics.service import Metrics


def make(requests: int, size: int) -> tuple[QueueBudget, Metrics]:
    metrics = Metrics(Registry())
    return QueueBudget(requests, size, metrics.queue_depth, metrics.queue_bytes), metrics


def test_the_budget_is_bounded_in_requests() -> None:
    budget, metrics = make(2, 100)
    budget.reserve(1, lambda: 3)
    budget.reserve(1, lambda: 3)
    assert sample_value(metrics.registry, "slimq_queue_depth") == 2
    with pytest.raises(OverloadedError, match=r"\(2 requests\); try again in 3 s$"):
        budget.reserve(1, lambda: 3)
    budget.release(1)
    budget.reserve(1, lambda: 3)


def test_the_budget_is_bounded_in_bytes() -> None:
    budget, metrics = make(9, 100)
    budget.reserve(60, lambda: 3)
    with pytest.raises(OverloadedError, match=r"exceed the 100 bytes .* in 3 s$"):
        budget.reserve(41, lambda: 3)
    budget.reserve(40, lambda: 3)
    budget.release(60)
    assert (budget.requests, budget.bytes) == (1, 40)
    assert sample_value(metrics.registry, "slimq_queue_depth") == 1
    assert sample_value(metrics.registry, "slimq_queue_bytes") == 40
