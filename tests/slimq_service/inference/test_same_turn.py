from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from costs import make_cost
from samples import sample_value
from slimq_service.inference.run import Inference
from slimq_service.inference.same_turn import SameTurn
from slimq_service.metrics.registry import Registry
from slimq_service.metrics.service import Metrics
from slimq_service.variants.loading import LoadedVariant

MOST = 4


class Bench:
    """What gathers, and variants that double what they are given and note their batches."""

    def __init__(self) -> None:
        self.metrics = Metrics(Registry())
        self.same_turn = SameTurn(MOST, self.metrics)

    def variant(
        self, name: str, *, batch_invariant: bool = True
    ) -> tuple[LoadedVariant, list[int]]:
        batches: list[int] = []

        def double(observations: Any, /) -> Any:
            batches.append(len(observations))
            if not np.isfinite(observations).all():
                raise FloatingPointError("not finite")
            return observations * 2.0

        self.metrics.add("policy", name)
        policy: Any = SimpleNamespace(name="policy")
        manifest: Any = SimpleNamespace(name=name)
        cost = make_cost(1e-6, 1e-6)
        return LoadedVariant(policy, manifest, double, cost, batch_invariant), batches

    def start(
        self, variant: LoadedVariant, value: float, count: int = 1
    ) -> asyncio.Task[Inference]:
        rows = np.full((count, 2), value, np.float32)
        return asyncio.ensure_future(self.same_turn.run(variant, rows))

    def value(self, name: str, **labels: str) -> float:
        labels = {"policy": "policy", "variant": "small", **labels}
        found = sample_value(self.metrics.registry, name, labels)
        assert found is not None
        return found


def test_requests_of_one_turn_share_one_run_and_each_gets_its_own_rows() -> None:
    async def run() -> None:
        bench = Bench()
        variant, batches = bench.variant("small")
        running = [bench.start(variant, float(value)) for value in (1, 2, 3)]
        assert not bench.same_turn.pending
        await asyncio.sleep(0)
        assert bench.same_turn.pending
        answers = await asyncio.gather(*running)
        assert [a.q_values.tolist() for a in answers] == [[[2.0 * v] * 2] for v in (1, 2, 3)]
        assert batches == [3]
        assert [answer.executions for answer in answers] == [1, 0, 0]
        assert len({answer.seconds for answer in answers}) == 1
        assert all(answer.queue_seconds > 0 for answer in answers)
        assert not bench.same_turn.pending
        assert bench.value("slimq_batches_total", reason="inline") == 1
        assert bench.value("slimq_batch_observations_sum") == 3

    asyncio.run(run())


def test_requests_read_in_the_next_turn_share_the_run_and_later_ones_do_not() -> None:
    async def run() -> None:
        bench = Bench()
        variant, batches = bench.variant("small")
        running = [bench.start(variant, 1.0)]
        await asyncio.sleep(0)
        running.append(bench.start(variant, 2.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running.append(bench.start(variant, 3.0))
        await asyncio.gather(*running)
        assert batches == [2, 1]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("counts", "batches"),
    [([2, 2, 1], [4, 1]), ([3, 2, 2], [3, 4]), ([1, 7, 1], [1, 7, 1]), ([1] * 9, [4, 4, 1])],
)
def test_batches_are_split_at_the_limit(counts: list[int], batches: list[int]) -> None:
    async def run() -> None:
        bench = Bench()
        variant, found = bench.variant("small")
        running = [bench.start(variant, float(n), count) for n, count in enumerate(counts)]
        answers = await asyncio.gather(*running)
        assert found == batches
        assert [a.q_values.tolist() for a in answers] == [
            [[2.0 * n] * 2] * count for n, count in enumerate(counts)
        ]
        assert sum(answer.executions for answer in answers) == len(batches)

    asyncio.run(run())


def test_variants_and_unbatchable_requests_run_separately() -> None:
    async def run() -> None:
        bench = Bench()
        one, ones = bench.variant("small")
        other, others = bench.variant("other")
        dynamic, dynamics = bench.variant("dynamic", batch_invariant=False)
        running = [bench.start(variant, 1.0) for variant in (one, other, dynamic) * 2]
        await asyncio.gather(*running)
        assert (ones, others, dynamics) == ([2], [2], [1, 1])

    asyncio.run(run())


def test_an_error_reaches_only_the_request_that_caused_it() -> None:
    async def run() -> None:
        bench = Bench()
        variant, batches = bench.variant("small")
        other, _ = bench.variant("other")
        running = [bench.start(variant, value) for value in (1.0, np.nan, 3.0, np.nan)]
        fine = bench.start(other, 4.0)
        answers: list[Any] = await asyncio.gather(*running, return_exceptions=True)
        assert [type(answer) for answer in answers[1::2]] == [FloatingPointError] * 2
        assert answers[1] is not answers[3], "each raises its own"
        assert [a.q_values.tolist() for a in answers[::2]] == [[[2.0] * 2], [[6.0] * 2]]
        assert (await fine).q_values.tolist() == [[8.0, 8.0]]
        assert batches == [4, 1, 1, 1, 1]
        assert not bench.same_turn.pending

    asyncio.run(run())


class OddError(Exception):
    """One that cannot be made again from its arguments."""

    def __new__(cls, *, reason: str) -> OddError:
        return super().__new__(cls, reason)

    def __init__(self, *, reason: str) -> None:
        super().__init__(reason)


@pytest.mark.parametrize("error", [StopIteration("stop"), OddError(reason="odd")])
def test_no_request_hangs_whatever_is_raised(error: Exception) -> None:
    async def run() -> None:
        bench = Bench()

        def fail(_: Any, /) -> Any:
            raise error

        variant = dataclasses.replace(bench.variant("small")[0], q_function=fail)
        with pytest.raises(RuntimeError, match=str(error)):
            await asyncio.wait_for(bench.start(variant, 1.0), 5)

    asyncio.run(run())


def test_no_request_hangs_when_counting_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        bench = Bench()
        variant, _ = bench.variant("small")
        other, _ = bench.variant("other")
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        monkeypatch.setattr(bench.metrics, "of", lambda *_: 1 // 0)
        running = [bench.start(one, 1.0) for one in (variant, other, variant)]
        answers = await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), 5)
        assert [type(answer) for answer in answers] == [ZeroDivisionError] * 3

    asyncio.run(run())


def test_a_run_is_answered_before_the_next_one_starts() -> None:
    async def run() -> None:
        bench = Bench()
        one, ones = bench.variant("small")
        other, others = bench.variant("other")
        seen: list[tuple[int, int]] = []

        async def ask(variant: LoadedVariant) -> None:
            await bench.same_turn.run(variant, np.ones((1, 2), np.float32))
            seen.append((len(ones), len(others)))

        await asyncio.gather(*(ask(variant) for variant in (one, other, one, other)))
        assert seen == [(1, 0), (1, 0), (1, 1), (1, 1)]

    asyncio.run(run())


def test_a_cancelled_request_does_not_affect_the_others() -> None:
    async def run() -> None:
        bench = Bench()
        variant, _ = bench.variant("small")
        running = [bench.start(variant, float(value)) for value in (1, 2, 3)]
        await asyncio.sleep(0)
        running[0].cancel()
        answers = await asyncio.gather(*running, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        kept = [answer for answer in answers if isinstance(answer, Inference)]
        assert [answer.q_values.tolist() for answer in kept] == [[[4.0, 4.0]], [[6.0, 6.0]]]
        assert [answer.executions for answer in kept] == [1, 0]

    asyncio.run(run())
