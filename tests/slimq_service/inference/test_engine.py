from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from slimq_service.errors import NonFiniteError
from slimq_service.inference.arrivals import Arrivals
from slimq_service.inference.batching import BatchLimits
from slimq_service.inference.engine import Engine
from slimq_service.inference.run import check_finite
from slimq_service.metrics.registry import Registry
from slimq_service.metrics.service import Metrics
from slimq_service.variants.loading import Cost, LoadedVariant


def run(cost: Cost, batch: int = 1) -> str:
    """The name of the thread in which a batch was computed."""
    names = []

    def q_function(observations: Any, /) -> Any:
        names.append(threading.current_thread().name)
        return np.zeros((len(observations), 2), np.float32)

    async def receive() -> Any:
        raise AssertionError("nothing waits")

    engine = Engine(200e-6, 1, BatchLimits(8, 8, 1.0), Arrivals(), Metrics(Registry()))
    named: Any = SimpleNamespace(name="some")
    variant = LoadedVariant(named, named, q_function, cost, (None, None))
    asyncio.run(engine.run(variant, np.zeros((batch, 4), np.float32), receive))
    engine.close()
    return names[0]


def test_small_work_runs_on_the_event_loop_and_larger_work_in_a_thread() -> None:
    assert run(Cost(15e-6, 1e-6)) == "MainThread"
    assert run(Cost(15e-6, 1e-3)).startswith("slimq-inference")


def test_a_large_batch_of_a_small_model_is_large_work() -> None:
    assert run(Cost(15e-6, 10e-6), batch=64).startswith("slimq-inference")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("batch", [3, 768])
def test_q_values_that_are_not_finite_name_the_observation(value: float, batch: int) -> None:
    q_values = np.zeros((batch, 2), np.float32)
    check_finite(q_values)
    q_values[1, 1] = value
    with pytest.raises(NonFiniteError, match=r"observations\[1\]"):
        check_finite(q_values)
