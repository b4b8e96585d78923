from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from costs import make_cost
from slimq_service.errors import NonFiniteError
from slimq_service.inference.arrivals import Arrivals
from slimq_service.inference.batching import BatchLimits
from slimq_service.inference.engine import DEFAULT_SHORT_SECONDS, MIN_SHORT_SECONDS, Engine
from slimq_service.inference.run import check_finite
from slimq_service.metrics.registry import Registry
from slimq_service.metrics.service import Metrics
from slimq_service.variants.cost import Cost
from slimq_service.variants.loading import LoadedVariant


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
    variant = LoadedVariant(named, named, q_function, cost)
    asyncio.run(engine.run(variant, np.zeros((batch, 4), np.float32), receive))
    engine.close()
    return names[0]


def test_small_work_runs_on_the_event_loop_and_larger_work_in_a_thread() -> None:
    assert run(make_cost(15e-6, 1e-6)) == "MainThread"
    assert run(make_cost(15e-6, 1e-3)).startswith("slimq-inference")


def test_a_large_batch_of_a_small_model_is_large_work() -> None:
    assert run(make_cost(15e-6, 10e-6), batch=64).startswith("slimq-inference")


def test_what_short_runs_add_up_to_is_shared_out_to_threads_that_are_free() -> None:
    names: list[tuple[str, int]] = []

    def q_function(observations: Any, /) -> Any:
        names.append((threading.current_thread().name, len(observations)))
        return np.zeros((len(observations), 2), np.float32)

    async def serve() -> None:
        arrivals = Arrivals()
        engine = Engine(200e-6, 2, BatchLimits(32, 8, 1.0), arrivals, Metrics(Registry()))
        named: Any = SimpleNamespace(name="some")
        variant = LoadedVariant(named, named, q_function, make_cost(0, 50e-6), (None, None))
        one = np.zeros((1, 4), np.float32)
        for count, batches in ((3, [3]), (16, [8, 8])):
            arrivals.coming = count
            names.clear()
            await asyncio.gather(*(engine.run(variant, one, _never) for _ in range(count)))
            assert [batch for _, batch in names] == batches
            inline = names[0][0] == "MainThread"
            assert inline is (count == 3), "150 µs are short, 800 µs are not"
        engine.close()

    asyncio.run(serve())


def test_short_is_what_takes_no_longer_than_handing_it_over() -> None:
    async def serve() -> None:
        engine = Engine(None, 1, BatchLimits(8, 8, 1.0), Arrivals(), Metrics(Registry()))
        named: Any = SimpleNamespace(name="some")
        await engine.calibrate()
        for seconds, inline in ((MIN_SHORT_SECONDS / 2, True), (2 * DEFAULT_SHORT_SECONDS, False)):
            names: list[str] = []

            def q_function(observations: Any, /, names: list[str] = names) -> Any:
                names.append(threading.current_thread().name)
                return np.zeros((len(observations), 2), np.float32)

            cost = make_cost(seconds, 0)
            variant = LoadedVariant(named, named, q_function, cost, (None, None))
            await engine.run(variant, np.zeros((1, 4), np.float32), _never)
            assert (names == ["MainThread"]) is inline
        engine.close()

    asyncio.run(serve())


async def _never() -> Any:
    await asyncio.Event().wait()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("batch", [3, 768])
def test_q_values_that_are_not_finite_name_the_observation(value: float, batch: int) -> None:
    q_values = np.zeros((batch, 2), np.float32)
    check_finite(q_values)
    q_values[1, 1] = value
    with pytest.raises(NonFiniteError, match=r"observations\[1\]"):
        check_finite(q_values)
