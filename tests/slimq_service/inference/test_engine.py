from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from costs import make_cost
from slimq_service.errors import NonFiniteError, OverloadedError
from slimq_service.http.bodies import ClientGoneError
from slimq_service.inference.arrivals import Arrivals
from slimq_service.inference.batch_limits import BatchLimits
from slimq_service.inference.engine import MAX_INLINE_SECONDS, MIN_INLINE_SECONDS, Engine
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


def test_short_runs_are_inline_and_longer_ones_in_a_thread() -> None:
    assert run(make_cost(15e-6, 1e-6)) == "MainThread"
    assert run(make_cost(15e-6, 1e-3)).startswith("slimq-inference")


def test_a_large_batch_of_a_small_model_runs_in_a_thread() -> None:
    assert run(make_cost(15e-6, 10e-6), batch=64).startswith("slimq-inference")


def test_many_short_runs_are_split_between_free_threads() -> None:
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
            arrivals.pending = count
            names.clear()
            await asyncio.gather(*(engine.run(variant, one, _never) for _ in range(count)))
            assert [batch for _, batch in names] == batches
            inline = names[0][0] == "MainThread"
            assert inline is (count == 3), "150 µs are short, 800 µs are not"
        engine.close()

    asyncio.run(serve())


def test_the_inline_limit_is_the_measured_cost_of_a_handoff() -> None:
    async def serve() -> None:
        engine = Engine(None, 3, BatchLimits(8, 8, 1.0), Arrivals(), Metrics(Registry()))
        named: Any = SimpleNamespace(name="some")
        await engine.calibrate()
        for seconds, inline in ((MIN_INLINE_SECONDS / 2, True), (2 * MAX_INLINE_SECONDS, False)):
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


def test_with_few_threads_runs_stay_inline_while_others_can_wait_for_them() -> None:
    names: list[tuple[bool, int]] = []

    def q_function(observations: Any, /) -> Any:
        names.append((threading.current_thread().name == "MainThread", len(observations)))
        return np.zeros((len(observations), 2), np.float32)

    async def serve() -> None:
        arrivals, limits = Arrivals(), BatchLimits(32, 32, 1.0, alone_seconds=2e-3)
        engine = Engine(None, 2, limits, arrivals, Metrics(Registry()))
        await engine.calibrate()
        named: Any = SimpleNamespace(name="some")
        one = np.zeros((1, 4), np.float32)
        arrivals.pending = 9
        for seconds, expected in (
            (0.5e-3, [(True, 4), (True, 4), (True, 1)]),
            (2.5e-3, [(False, 5), (False, 4)]),
        ):
            names.clear()
            variant = LoadedVariant(named, named, q_function, make_cost(0, seconds), (None, None))
            await asyncio.gather(*(engine.run(variant, one, _never) for _ in range(9)))
            assert sorted(names, reverse=True) == expected
        engine.close()

    asyncio.run(serve())


def test_runs_that_wait_for_the_event_loop_are_bounded_and_left_by_clients_that_go() -> None:
    outcomes: list[str] = []

    def q_function(observations: Any, /) -> Any:
        time.sleep(0.03)
        return np.zeros((len(observations), 2), np.float32)

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def serve() -> None:
        arrivals, limits = Arrivals(), BatchLimits(32, 6, 1.0, alone_seconds=2e-3)
        engine = Engine(None, 1, limits, arrivals, Metrics(Registry()))
        named: Any = SimpleNamespace(name="some")
        variant = LoadedVariant(named, named, q_function, make_cost(0, 1.5e-3), (None, None))
        one = np.zeros((1, 4), np.float32)
        arrivals.pending = 9

        async def ask(number: int) -> None:
            try:
                await engine.run(variant, one, gone if number == 5 else _never)
                outcomes.append("computed")
            except (OverloadedError, ClientGoneError) as error:
                outcomes.append(type(error).__name__)

        await asyncio.gather(*(ask(number) for number in range(9)))
        engine.close()

    asyncio.run(serve())
    assert outcomes.count("OverloadedError") == 2  # with one that runs and six that wait
    assert outcomes.count("ClientGoneError") == 1
    assert outcomes.count("computed") == 6


async def _never() -> Any:
    await asyncio.Event().wait()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("batch", [3, 768])
def test_non_finite_q_values_name_the_observation(value: float, batch: int) -> None:
    q_values = np.zeros((batch, 2), np.float32)
    check_finite(q_values)
    q_values[1, 1] = value
    with pytest.raises(NonFiniteError, match=r"observations\[1\]"):
        check_finite(q_values)
