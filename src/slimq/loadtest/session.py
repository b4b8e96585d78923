"""Runs a plan against a service: warm-up, closed loop, open loop, steps.

The recording is filled as the test proceeds, so that measurements survive an interrupt, the time
limit or the loss of the service.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from slimq.core.errors import ServiceError
from slimq.loadtest.capacity import find_shortfall
from slimq.loadtest.connection import Pool
from slimq.loadtest.driver import BlockResult, drive_closed, drive_open
from slimq.loadtest.plan import MIN_REQUESTS, Mode, Plan, Subject, blocks
from slimq.loadtest.rate_search import FIRST_SHARE, MAX_MISSES, MAX_OVER_WARM_UP, Sweep, round_rate
from slimq.loadtest.recording import Recording, Sample
from slimq.loadtest.service import Service
from slimq.loadtest.stop import Stop, StoppedError, TimeIsUpError

SHARE_OF_CAPACITY = 0.5
"""Default rate of `open`, as a share of the slowest variant's throughput in the warm-up."""
MAX_SILENT_BLOCKS = 2
"""Consecutive blocks without an answer after which a variant is dropped: one may be a restart."""
REFUSED = "refused"
"""Failure reason of a step in which the service refused connections."""
MAX_BUSY = 0.85
"""Share of time above which a busy generator may be the bottleneck."""
_STRIDE = 31
"""Offset between the first bodies of consecutive rounds."""


@dataclass(frozen=True)
class Progress:
    """Progress after a block; `share` is the share of the plan done, estimated for steps."""

    mode: Mode | None
    label: str
    rate: float | None
    sample: Sample | None
    share: float


OnBlock = Callable[[Progress], None]


def run_plan(
    service: Service,
    plan: Plan,
    recording: Recording,
    on_block: OnBlock,
    stop: Stop | None = None,
) -> None:
    """Runs a plan and fills a recording.

    Args:
        service: the service under test.
        plan: the plan.
        recording: receives samples as they are taken.
        on_block: called after each block.
        stop: ends the plan early on request.

    Raises:
        ServiceError: the service was unreachable for longer than the request timeout; or the
            baseline answers nothing, or another variant does and fewer than two would remain.
        TimeIsUpError: the time limit was reached before the end of the plan.
        StoppedError: a stop was requested.
        KeyboardInterrupt: interrupted.
    """
    stop = stop or Stop()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            runner.run(_run(service, plan, recording, on_block, stop))
        except asyncio.CancelledError:
            raise StoppedError from None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop


async def _run(
    service: Service, plan: Plan, recording: Recording, on_block: OnBlock, stop: Stop
) -> None:
    stop.bind()
    closed = Pool(service.address, plan.connections)
    opened = Pool(service.address, plan.max_connections)
    session = _Session(service, plan, recording, on_block, closed, opened)
    try:
        await session.warm()
        for mode in plan.modes:
            if mode == "closed":
                await session.rounds(mode, None)
            elif mode == "open":
                rate = plan.rate or round_rate(SHARE_OF_CAPACITY * session.slowest())
                await session.rounds(mode, rate)
            else:
                await session.climb()
    finally:
        stop.release()
        await closed.close()
        await opened.close()


class _Session:
    def __init__(
        self,
        service: Service,
        plan: Plan,
        recording: Recording,
        on_block: OnBlock,
        closed: Pool,
        opened: Pool,
    ) -> None:
        self._service, self._plan = service, plan
        self._closed, self._opened = closed, opened
        self._recording, self._on_block = recording, on_block
        self._end = time.monotonic() + 60 * plan.minutes
        self._done, self._all = 0.0, estimate_seconds(plan)
        self._subjects = list(plan.subjects)
        self._warm_rates: dict[str, float] = {}
        self._silent: Counter[str] = Counter()
        self._refused = 0

    def slowest(self) -> float:
        """Answers per second of the slowest variant in the warm-up."""
        return min(self._warm_rates[subject.label] for subject in self._subjects)

    async def warm(self) -> None:
        """Loads and warms up every variant, in a closed loop."""
        for subject in self._plan.subjects:
            await self._fill(self._closed, "warm-up", subject)
            requests = self._service.requests[subject.variant]
            seconds = self._plan.warm_seconds
            self._check_time(seconds)
            result = await drive_closed(self._closed, requests, seconds, self._plan.timeout)
            if not result.answered:
                self._drop(subject, result)
                continue
            self._warm_rates[subject.label] = result.answered / result.took
            self._report(None, subject.label, None, None, seconds)
        self._all = estimate_seconds(self._plan, self._warm_rates)

    async def rounds(self, mode: Mode, rate: float | None) -> None:
        """Runs every block of a closed or an open loop."""
        plan = self._plan
        seconds = plan.seconds if rate is None else plan.open_seconds(rate)
        if seconds > plan.seconds:
            self._recording.notes.append(
                f"{mode}: blocks of {seconds:g} s instead of {plan.seconds:g} s, so that "
                f"{MIN_REQUESTS} requests count in each"
            )
        for number, subject in blocks(plan):
            if subject in self._subjects:
                await self._block(mode, number, subject, rate, seconds)

    async def climb(self) -> None:
        """Runs the sweeps, each raising the rate until no variant sustains it.

        Rates are capped at `MAX_OVER_WARM_UP`; the rate of a variant that reaches the cap is a
        lower bound, which the recording states.
        """
        first = max(1.0, FIRST_SHARE * self.slowest())
        alone = self._plan.order == "alone"
        for group in [[s] for s in self._subjects] if alone else [self._subjects]:
            begins = {subject.label: first for subject in group}
            for number in range(self._plan.sweeps):
                sweeps = {s: self._sweep(s.label, number, begins[s.label], first) for s in group}
                await self._climb(number, sweeps)
                for subject, sweep in sweeps.items():
                    begins[subject.label] = max(first, sweep.sustained / self._plan.step)

    def _sweep(self, label: str, number: int, begin: float, first: float) -> Sweep:
        """A sweep in whole steps the first time, then in half steps from one step below."""
        plan = self._plan
        factor = plan.step if number == 0 else math.sqrt(plan.step)
        spare = max(1.0, plan.max_connections / plan.connections)
        top = MAX_OVER_WARM_UP * spare * self._warm_rates[label]
        return Sweep(begin, factor, plan.step, first, top)

    async def _climb(self, number: int, sweeps: Mapping[Subject, Sweep]) -> None:
        while any(sweep.ending is None for sweep in sweeps.values()):
            for subject, sweep in sweeps.items():
                if sweep.ending is None:
                    seconds = self._plan.step_seconds_at(sweep.rate)
                    sample = await self._block("steps", number, subject, sweep.rate, seconds)
                    sweep.record(find_shortfall(sample, self._plan.p99_us))
                    if sweep.ending is not None:
                        self._recording.endings[subject.label, number] = sweep.ending

    async def _block(
        self, mode: Mode, number: int, subject: Subject, rate: float | None, seconds: float
    ) -> Sample:
        self._check_time(seconds)
        plan, meter = self._plan, self._service.meter
        requests = self._service.requests[subject.variant]
        first = number * _STRIDE
        try:
            await self._fill(self._closed if rate is None else self._opened, mode, subject)
        except ServiceError:
            if mode != "steps" or self._refused >= len(self._subjects):
                raise
            self._refused += 1
            refusal = BlockResult(seconds, sent=1, failed=Counter({REFUSED: 1}))
            sample = self._recording.add(mode, number, subject.label, rate, refusal, None)
            self._report(mode, subject.label, rate, sample, seconds)
            return sample
        self._refused = 0
        before = meter.read()
        if rate is None:
            result = await drive_closed(self._closed, requests, seconds, plan.timeout, first)
        else:
            result = await drive_open(self._opened, requests, seconds, plan.timeout, rate, first)
        used = meter.between(before, meter.read())
        sample = self._recording.add(mode, number, subject.label, rate, result, used)
        self._silent[subject.label] = 0 if result.answered else self._silent[subject.label] + 1
        if mode != "steps" and self._silent[subject.label] >= MAX_SILENT_BLOCKS:
            self._drop(subject, result)
        self._report(mode, subject.label, rate, sample, seconds)
        return sample

    async def _fill(self, pool: Pool, where: str, subject: Subject) -> None:
        """Opens connections, waiting up to the request timeout for a service that is restarting."""
        begin = time.monotonic()
        if await pool.fill(min(self._plan.timeout, max(0.0, self._end - begin))):
            downtime = time.monotonic() - begin
            self._recording.notes.append(
                f"{where}: the service refused connections for {downtime:.1f} s before a block of "
                f"{subject.label}"
            )

    def _check_time(self, seconds: float) -> None:
        if time.monotonic() + seconds > self._end:
            raise TimeIsUpError

    def _drop(self, subject: Subject, result: BlockResult) -> None:
        """Drops a failed variant if there are two others to compare."""
        reasons = ", ".join(f"{n} × {reason}" for reason, n in result.failed.most_common())
        problem = f"{subject.variant}: no request was answered ({reasons or 'none was sent'})"
        others = [other for other in self._subjects if other != subject]
        if subject.label == self._plan.baseline or len(others) < 2:
            raise ServiceError(self._service.address.authority, None, problem)
        self._subjects = others
        self._recording.notes.append(f"dropped from the test, {problem}")

    def _report(
        self, mode: Mode | None, label: str, rate: float | None, sample: Sample | None, took: float
    ) -> None:
        self._done += took
        share = min(1.0, self._done / self._all)
        self._on_block(Progress(mode, label, rate, sample, share))


def estimate_seconds(plan: Plan, warm_rates: Mapping[str, float] | None = None) -> float:
    """Estimates how long a plan takes.

    Args:
        plan: the plan.
        warm_rates: throughput of each variant in the warm-up, once known.
    """
    labels = [subject.label for subject in plan.subjects]
    known = warm_rates or dict.fromkeys(labels, 1.0)
    seconds = plan.warm_seconds * len(labels)
    opened = plan.open_seconds(plan.rate) if plan.rate else plan.seconds
    lengths = {"closed": plan.seconds, "open": opened, "steps": 0.0}
    seconds += sum(lengths[mode] for mode in plan.modes) * plan.rounds * len(labels)
    if "steps" in plan.modes:
        first = FIRST_SHARE * min(known.values())
        for label in known:  # each climbs to about twice its warm-up throughput
            steps = math.log(2 * known[label] / first) / math.log(plan.step) + MAX_MISSES
            steps += (plan.sweeps - 1) * 2 * (1 + MAX_MISSES)
            seconds += steps * plan.step_seconds
    return seconds
