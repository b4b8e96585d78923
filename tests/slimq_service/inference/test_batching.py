from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from costs import make_cost
from samples import sample_value
from slimq_service.errors import ClosingError, DeadlineError, OverloadedError
from slimq_service.http.bodies import ClientGoneError
from slimq_service.inference.batch_limits import BatchLimits
from slimq_service.inference.batching import Batcher
from slimq_service.inference.queue_budget import QueueBudget
from slimq_service.inference.run import Inference
from slimq_service.inference.threads import Threads
from slimq_service.metrics.registry import Registry
from slimq_service.metrics.service import Metrics
from slimq_service.variants.cost import Cost
from slimq_service.variants.loading import LoadedVariant

COST = dataclasses.replace(make_cost(0.0, 1.5), best_batch=64)


class Client:
    """The ASGI channel of a request whose client stays until it goes."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}


class Gate:
    """A Q-function that waits until it is let go; it notes the batches that it was given."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)

    def __call__(self, observations: Any, /) -> Any:
        self.batches.append(len(observations))
        self.entered.release()
        assert self.open.wait(10)
        return observations * 2.0


class Bench:
    """A batcher with one thread, and variants whose Q-function is a gate."""

    def __init__(self, limits: BatchLimits, slots: int = 1) -> None:
        self.metrics = Metrics(Registry())
        self.threads = Threads(slots, "test")
        gauges = self.metrics.queue_depth, self.metrics.queue_bytes
        budget = QueueBudget(limits.waiting, limits.size, *gauges)
        self.batcher = Batcher(self.threads, slots, limits, budget, self.metrics)

    def variant(self, name: str, *, batch_invariant: bool = True) -> tuple[LoadedVariant, Gate]:
        gate = Gate()
        self.metrics.add("policy", name)
        policy: Any = SimpleNamespace(name="policy")
        manifest: Any = SimpleNamespace(name=name)
        return LoadedVariant(policy, manifest, gate, COST, batch_invariant), gate

    def start(
        self,
        variant: LoadedVariant,
        value: float,
        count: int = 1,
        width: int = 2,
        client: Client | None = None,
    ) -> asyncio.Task[Inference]:
        rows = np.full((count, width), value, np.float32)
        receive = (client or Client()).receive
        return asyncio.ensure_future(self.batcher.run(variant, rows, receive))

    def value(self, name: str, **labels: str) -> float:
        found = sample_value(self.metrics.registry, name, labels or None)
        assert found is not None
        return found


LIMITS = BatchLimits(observations=4, waiting=5, seconds=30.0)


async def entered(gate: Gate) -> None:
    """Returns once a batch is being computed."""
    await asyncio.to_thread(gate.entered.acquire)


def test_the_first_request_runs_alone_and_those_queued_meanwhile_run_as_one_batch() -> None:
    async def run() -> None:
        bench = Bench(LIMITS)
        variant, gate = bench.variant("large")
        first = bench.start(variant, 1.0)
        await entered(gate)
        waiting = [bench.start(variant, float(value)) for value in (2, 3, 4)]
        await asyncio.sleep(0)
        assert bench.value("slimq_queue_depth") == 3
        gate.open.set()
        answers = await asyncio.gather(first, *waiting)
        assert gate.batches == [1, 3]
        assert [a.q_values.tolist() for a in answers] == [[[2.0 * v] * 2] for v in (1, 2, 3, 4)]
        assert all(answer.queue_seconds > 0 for answer in answers[1:])
        assert bench.value("slimq_queue_depth") == 0
        labels = {"policy": "policy", "variant": "large"}
        reasons = [
            bench.value("slimq_batches_total", **labels, reason=r) for r in ("idle", "freed")
        ]
        assert reasons == [1, 1]
        assert bench.value("slimq_batch_observations_sum", **labels) == 4

    asyncio.run(run())


def test_a_batch_is_cut_at_the_limit_and_a_larger_request_is_a_batch_of_its_own() -> None:
    async def run() -> None:
        bench = Bench(LIMITS)
        variant, gate = bench.variant("large")
        first = bench.start(variant, 1.0)
        await entered(gate)
        waiting = [bench.start(variant, float(n), count=n) for n in (2, 2, 1, 7)]
        await asyncio.sleep(0)
        gate.open.set()
        answers = await asyncio.gather(first, *waiting)
        assert gate.batches == [1, 4, 1, 7]
        assert [len(answer.q_values) for answer in answers] == [1, 2, 2, 1, 7]
        assert set(answers[-1].q_values.flat) == {14.0}

    asyncio.run(run())


def test_a_batch_is_no_larger_than_the_best_measured_size() -> None:
    async def run() -> None:
        bench = Bench(LIMITS)
        variant, gate = bench.variant("large")
        variant = dataclasses.replace(variant, cost=Cost.of({1: 1.0, 2: 1.2, 4: 4.0}))
        first = bench.start(variant, 1.0)
        await entered(gate)
        waiting = [bench.start(variant, float(n)) for n in range(5)]
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first, *waiting)
        assert gate.batches == [1, 2, 2, 1]

    asyncio.run(run())


def test_the_variant_whose_oldest_request_came_first_is_next() -> None:
    async def run() -> None:
        bench = Bench(LIMITS)
        one, gate = bench.variant("one")
        other, other_gate = bench.variant("other")
        order: list[str] = []
        first = bench.start(one, 1.0)
        await entered(gate)
        for variant, name in ((other, "other"), (one, "one"), (other, "other")):
            bench.start(variant, 1.0).add_done_callback(lambda _, name=name: order.append(name))
        await asyncio.sleep(0)
        other_gate.open.set()
        gate.open.set()
        await first
        while len(order) < 3:
            await asyncio.sleep(0.001)
        assert order == ["other", "other", "one"]
        assert (gate.batches, other_gate.batches) == ([1, 1], [2])

    asyncio.run(run())


def test_a_full_queue_refuses_requests_and_says_when_to_retry() -> None:
    async def run() -> None:
        bench = Bench(BatchLimits(4, 2, 30.0))
        variant, gate = bench.variant("large")
        first = bench.start(variant, 1.0)
        await entered(gate)
        waiting = [bench.start(variant, 1.0) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="the queue is full \\(2 requests\\)") as refused:
            await bench.start(variant, 1.0)
        assert refused.value.retry_after == 3
        gate.open.set()
        await asyncio.gather(first, *waiting)

    asyncio.run(run())


def test_a_queued_request_fails_at_its_deadline_and_is_never_run() -> None:
    async def run() -> None:
        bench = Bench(BatchLimits(4, 5, 0.05))
        variant, gate = bench.variant("large")
        first = bench.start(variant, 1.0)
        await entered(gate)
        started = time.perf_counter()
        with pytest.raises(DeadlineError, match=r"queued for 0\.05 s"):
            await bench.start(variant, 1.0)
        assert time.perf_counter() - started < 5.0
        assert bench.value("slimq_queue_depth") == 0, "it waits no longer"
        gate.open.set()
        await first
        await bench.start(variant, 1.0)
        assert gate.batches == [1, 1]
        assert bench.value("slimq_queue_depth") == 0

    asyncio.run(run())


def test_a_cancelled_request_is_not_run() -> None:
    async def run() -> None:
        bench = Bench(LIMITS)
        variant, gate = bench.variant("large")
        first = bench.start(variant, 1.0)
        await entered(gate)
        gone, stays = bench.start(variant, 2.0), bench.start(variant, 3.0)
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        assert bench.value("slimq_queue_depth") == 1
        gate.open.set()
        answers = await asyncio.gather(first, gone, stays, return_exceptions=True)
        assert isinstance(answers[1], asyncio.CancelledError)
        assert gate.batches == [1, 1]

    asyncio.run(run())


def test_an_error_reaches_every_request_of_its_batch_and_the_next_batch_runs() -> None:
    async def run() -> None:
        bench = Bench(LIMITS)
        variant, gate = bench.variant("large")
        first = bench.start(variant, 1.0)
        await entered(gate)
        wrong = [bench.start(variant, 1.0, count=2), bench.start(variant, 1.0)]
        wrong.append(bench.start(variant, 1.0, width=9))
        await asyncio.sleep(0)
        gate.open.set()
        await first
        answers = await asyncio.gather(*wrong, return_exceptions=True)
        assert [type(answer) for answer in answers] == [ValueError] * 3
        assert len(set(map(id, answers))) == 3, "each raises its own"
        assert len(set(map(str, answers))) == 1
        assert (await bench.start(variant, 4.0)).q_values.tolist() == [[8.0, 8.0]]

    asyncio.run(run())


def test_requests_that_arrive_in_one_turn_are_split_between_free_threads() -> None:
    async def run() -> None:
        bench = Bench(LIMITS, slots=2)
        variant, gate = bench.variant("large")
        running = [bench.start(variant, 1.0) for _ in range(3)]
        await entered(gate)
        await entered(gate)
        assert sorted(gate.batches) == [1, 2]
        waits = bench.start(variant, 1.0)
        await asyncio.sleep(0)
        assert bench.value("slimq_queue_depth") == 1
        gate.open.set()
        await asyncio.gather(*running, waits)
        assert sorted(gate.batches) == [1, 1, 2]

    asyncio.run(run())


def test_queued_variants_share_the_threads() -> None:
    async def run() -> None:
        bench = Bench(LIMITS, slots=2)
        (one, gate), (other, other_gate) = bench.variant("one"), bench.variant("other")
        running = [bench.start(variant, 1.0) for variant in (one, other, one, one)]
        await entered(gate)
        await entered(other_gate)
        assert (gate.batches, other_gate.batches) == ([3], [1])
        gate.open.set()
        other_gate.open.set()
        await asyncio.gather(*running)

    asyncio.run(run())


@pytest.mark.parametrize(("alone_seconds", "inline"), [(10.0, True), (0.1, False)])
def test_a_lone_request_runs_in_the_event_loop(alone_seconds: float, inline: bool) -> None:
    """Unless it takes longer than that is worth."""

    async def run() -> None:
        bench = Bench(dataclasses.replace(LIMITS, alone_seconds=alone_seconds))
        found = []

        def note(observations: Any, /) -> Any:
            found.append(threading.current_thread().name)
            return observations

        variant, _ = bench.variant("large")
        variant = dataclasses.replace(variant, q_function=note)
        await bench.start(variant, 1.0)
        assert (found.pop() == "MainThread") is inline
        await asyncio.gather(*(bench.start(variant, 1.0) for _ in range(3)))
        assert [name[:5] for name in found] == ["test-"], "several are not alone"

    asyncio.run(run())


def test_a_free_thread_runs_a_request_even_if_the_queue_is_full() -> None:
    async def run() -> None:
        bench = Bench(BatchLimits(4, 1, 30.0, size=8))
        variant, gate = bench.variant("large")
        gate.open.set()
        answer = await bench.start(variant, 1.0, count=3)  # 24 bytes
        assert len(answer.q_values) == 3

    asyncio.run(run())


def test_variants_that_are_not_batch_invariant_are_not_batched() -> None:
    async def run() -> None:
        bench = Bench(LIMITS)
        variant, gate = bench.variant("dynamic", batch_invariant=False)
        first = bench.start(variant, 1.0)
        await entered(gate)
        waiting = [bench.start(variant, 1.0, count=n) for n in (1, 2, 1)]
        await asyncio.sleep(0)
        gate.open.set()
        answers = await asyncio.gather(first, *waiting)
        assert gate.batches == [1, 1, 2, 1]
        assert [answer.executions for answer in answers] == [1] * 4
        labels = {"policy": "policy", "variant": "dynamic", "reason": "full"}
        assert bench.value("slimq_batches_total", **labels) == 0

    asyncio.run(run())


def test_a_client_that_disconnects_leaves_the_queue() -> None:
    async def run() -> None:
        bench = Bench(LIMITS)
        variant, gate = bench.variant("large")
        client = Client()
        first = bench.start(variant, 1.0)
        await entered(gate)
        leaves = bench.start(variant, 2.0, client=client)
        stays = bench.start(variant, 3.0)
        await asyncio.sleep(0)
        client.gone.set()
        with pytest.raises(ClientGoneError):
            await leaves
        assert bench.value("slimq_queue_depth") == 1
        gate.open.set()
        await asyncio.gather(first, stays)
        assert gate.batches == [1, 1]

    asyncio.run(run())


def test_bytes_over_the_queue_limit_are_refused_until_others_leave() -> None:
    async def run() -> None:
        bench = Bench(BatchLimits(4, 100, 30.0, size=32))  # four observations of two numbers
        variant, gate = bench.variant("large")
        first = bench.start(variant, 1.0, count=9)
        await entered(gate)
        waiting = bench.start(variant, 1.0, count=3)
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="exceed the 32 bytes") as refused:
            await bench.start(variant, 1.0, count=2)
        assert (refused.value.limit, refused.value.unit) == (32, "bytes")
        fits = bench.start(variant, 1.0, count=1)
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        again = bench.start(variant, 1.0, count=2)
        gate.open.set()
        await asyncio.gather(first, fits, again)

    asyncio.run(run())


def test_a_batch_counts_as_one_run_of_the_model() -> None:
    async def run() -> None:
        bench = Bench(LIMITS)
        variant, gate = bench.variant("large")
        first = bench.start(variant, 1.0)
        await entered(gate)
        waiting = [bench.start(variant, 1.0) for _ in range(3)]
        await asyncio.sleep(0)
        gate.open.set()
        answers = await asyncio.gather(first, *waiting)
        assert [answer.executions for answer in answers] == [1, 1, 0, 0]

    asyncio.run(run())


def test_queue_time_ends_when_the_model_starts() -> None:
    """Also where something else has the thread that the batch was given."""

    async def run() -> None:
        bench = Bench(LIMITS)
        variant, gate = bench.variant("large")
        gate.open.set()
        bench.threads.start(lambda: time.sleep(0.1), lambda _: None)
        assert (await bench.start(variant, 1.0)).queue_seconds > 0.05

    asyncio.run(run())


def test_time_already_queued_counts_towards_the_deadline() -> None:
    async def run() -> None:
        bench = Bench(LIMITS)
        variant, gate = bench.variant("large")
        first = bench.start(variant, 1.0)
        await entered(gate)
        rows = np.zeros((1, 2), np.float32)
        with pytest.raises(DeadlineError):
            async with asyncio.timeout(5):
                await bench.batcher.run(variant, rows, Client().receive, waited=29.99)
        gate.open.set()
        await first

    asyncio.run(run())


def test_a_batch_that_cannot_be_started_fails_and_frees_its_slot() -> None:
    async def run() -> None:
        bench = Bench(LIMITS)
        variant, gate = bench.variant("large")
        gate.open.set()
        bench.threads.close()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="pool is closed"):
                async with asyncio.timeout(5):
                    await bench.start(variant, 1.0)

    asyncio.run(run())


def test_queued_requests_are_refused_at_shutdown() -> None:
    async def run() -> None:
        bench = Bench(LIMITS)
        variant, gate = bench.variant("large")
        first = bench.start(variant, 1.0)
        await entered(gate)
        waiting = [bench.start(variant, 1.0) for _ in range(2)]
        await asyncio.sleep(0)
        bench.batcher.close()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(answer) for answer in answers] == [ClosingError] * 2
        assert bench.value("slimq_queue_depth") == 0
        gate.open.set()
        await first

    asyncio.run(run())
