"""Runs a plan against a service: warm-up, closed loop, open loop, steps.

The recording is filled as it goes, so that what was measured before an interrupt, the time limit
or the loss of the service is there.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from slimq.core.errors import ServiceError
from slimq.evaluation.loadtest.analysis import why_not_held
from slimq.evaluation.loadtest.connection import Pool
from slimq.evaluation.loadtest.driver import Answers, drive_closed, drive_open
from slimq.evaluation.loadtest.plan import LEAST_REQUESTS, Mode, Plan, Subject, blocks
from slimq.evaluation.loadtest.processor import Meter
from slimq.evaluation.loadtest.recording import Recording, Sample
from slimq.evaluation.loadtest.requests import Address, Requests

SHARE_OF_CAPACITY = 0.5
"""What `open` asks of the slowest variant, where no rate is given."""
FIRST_STEP = 0.25
"""What the first step asks of the slowest variant."""
MISSES = 2
"""Steps in a row that must not hold before a sweep of a variant ends: one may be bad luck."""
HIGHEST = 2.0
"""No step asks for more than so many times what a variant answered in the warm-up, had that had
the steps' connections."""
SILENT_BLOCKS = 2
"""Blocks in a row without one answer after which a variant has failed: one may be a restart."""
REFUSED = "refused"
"""Reason of a step that found no service."""
BUSY = 0.85
"""A generator that is busy for more of the time measures itself."""
_STRIDE = 31
"""By which each round begins elsewhere among the bodies."""


@dataclass(frozen=True)
class Service:
    """What is tested.

    Attributes:
        address: where it is.
        requests: of each variant.
        meter: of its processor time.
    """

    address: Address
    requests: Mapping[str, Requests]
    meter: Meter


@dataclass(frozen=True)
class Progress:
    """What has just been done; `share` is of the whole, guessed where steps are to come."""

    mode: Mode | None
    label: str
    rate: float | None
    sample: Sample | None
    share: float


OnBlock = Callable[[Progress], None]


class TimeIsUpError(Exception):
    """The plan's time is over; what was measured stands."""


def run_plan(service: Service, plan: Plan, recording: Recording, on_block: OnBlock) -> None:
    """Fills a recording.

    Args:
        service: what is tested.
        plan: what is to be done.
        recording: where samples go, as they are taken.
        on_block: hears of each block when it is over.

    Raises:
        ServiceError: it cannot be reached for as long as a request may take, or the baseline, or
            a variant without two others, answers nothing.
        TimeIsUpError: the plan's minutes were over before its end.
        KeyboardInterrupt: as it says.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(service, plan, recording, on_block))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop


async def _run(service: Service, plan: Plan, recording: Recording, on_block: OnBlock) -> None:
    closed = Pool(service.address, plan.connections)
    opened = Pool(service.address, plan.most_connections)
    session = _Session(service, plan, recording, on_block, closed, opened)
    try:
        await session.warm()
        for mode in plan.modes:
            if mode == "closed":
                await session.rounds(mode, None)
            elif mode == "open":
                rate = plan.rate or _round(SHARE_OF_CAPACITY * session.slowest())
                await session.rounds(mode, rate)
            else:
                await session.climb()
    finally:
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
        self._done, self._all = 0.0, guess_seconds(plan)
        self._subjects = list(plan.subjects)
        self._capacity: dict[str, float] = {}
        self._silent: Counter[str] = Counter()
        self._refused = 0

    def slowest(self) -> float:
        """Answers per second of the slowest variant in the warm-up."""
        return min(self._capacity[subject.label] for subject in self._subjects)

    async def warm(self) -> None:
        """Has every variant loaded and warm, in a closed loop."""
        for subject in self._plan.subjects:
            await self._fill(self._closed, "warm-up", subject)
            requests = self._service.requests[subject.variant]
            seconds = self._plan.warm_seconds
            answers = await drive_closed(self._closed, requests, seconds, self._plan.timeout)
            if not answers.answered:
                self._lose(subject, answers)
                continue
            self._capacity[subject.label] = answers.answered / answers.took
            self._tell(None, subject.label, None, None, seconds)

    async def rounds(self, mode: Mode, rate: float | None) -> None:
        """Every block of a closed or an open loop."""
        plan = self._plan
        seconds = plan.seconds if rate is None else plan.open_seconds(rate)
        if seconds > plan.seconds:
            self._recording.notes.append(
                f"{mode}: blocks of {seconds:g} s instead of {plan.seconds:g} s, so that "
                f"{LEAST_REQUESTS} requests count in each"
            )
        for number, subject in blocks(plan):
            if subject in self._subjects:
                await self._block(mode, number, subject, rate, seconds)

    async def climb(self) -> None:
        """Each sweep raises the rate until every variant has failed to hold it.

        A variant that would still be asked for more past what its connections could ever carry
        is left there, and the recording says so: what it held is then a lower bound.
        """
        plan = self._plan
        first = max(1.0, FIRST_STEP * self.slowest())
        alone = plan.order == "alone"
        for group in [[s] for s in self._subjects] if alone else [self._subjects]:
            await self._climb(group, first)

    async def _climb(self, subjects: Sequence[Subject], first: float) -> None:
        plan = self._plan
        highest = HIGHEST * max(1.0, plan.most_connections / plan.connections)
        best: dict[str, float] = {}
        for sweep in range(plan.sweeps):
            factor = plan.step if sweep == 0 else math.sqrt(plan.step)
            rates = {
                s.label: first
                if sweep == 0
                else max(first, best.get(s.label, first) / factor**MISSES)
                for s in subjects
            }
            misses = dict.fromkeys(rates, 0)
            while any(count < MISSES for count in misses.values()):
                for subject in subjects:
                    label = subject.label
                    if misses[label] >= MISSES:
                        continue
                    rate = _round(rates[label])
                    seconds = plan.step_seconds_at(rate)
                    sample = await self._block("steps", sweep, subject, rate, seconds)
                    held = why_not_held(sample, plan.p99_us) is None
                    misses[label] = 0 if held else misses[label] + 1
                    if held:
                        best[label] = max(best.get(label, 0.0), rates[label])
                    rates[label] *= factor
                    if rates[label] > highest * self._capacity[label]:
                        misses[label] = MISSES
                        if held:
                            self._recording.capped.add((label, sweep))

    async def _block(
        self, mode: Mode, number: int, subject: Subject, rate: float | None, seconds: float
    ) -> Sample:
        if time.monotonic() + seconds > self._end:
            raise TimeIsUpError
        plan, meter = self._plan, self._service.meter
        requests = self._service.requests[subject.variant]
        first = number * _STRIDE
        try:
            await self._fill(self._closed if rate is None else self._opened, mode, subject)
        except ServiceError:
            if mode != "steps" or self._refused >= len(self._subjects):
                raise
            self._refused += 1
            refusal = Answers(seconds, sent=1, failed=Counter({REFUSED: 1}))
            sample = self._recording.add(mode, number, subject.label, rate, refusal, None)
            self._tell(mode, subject.label, rate, sample, seconds)
            return sample
        self._refused = 0
        if rate is None:
            before = meter.read()
            answers = await drive_closed(self._closed, requests, seconds, plan.timeout, first)
        else:
            before = meter.read()
            answers = await drive_open(self._opened, requests, seconds, plan.timeout, rate, first)
        used = meter.between(before, meter.read())
        sample = self._recording.add(mode, number, subject.label, rate, answers, used)
        self._silent[subject.label] = 0 if answers.answered else self._silent[subject.label] + 1
        if mode != "steps" and self._silent[subject.label] >= SILENT_BLOCKS:
            self._lose(subject, answers)
        self._tell(mode, subject.label, rate, sample, seconds)
        return sample

    async def _fill(self, pool: Pool, where: str, subject: Subject) -> None:
        """Waits for a service that is being restarted, as long as a request may take."""
        begin = time.monotonic()
        if await pool.fill(self._plan.timeout):
            away = time.monotonic() - begin
            self._recording.notes.append(
                f"{where}: the service refused connections for {away:.1f} s before a block of "
                f"{subject.label}"
            )

    def _lose(self, subject: Subject, answers: Answers) -> None:
        """Goes on without a variant that has failed, where there are two others to compare."""
        reasons = ", ".join(f"{n} × {reason}" for reason, n in answers.failed.most_common())
        problem = f"{subject.variant}: nothing was answered ({reasons or 'no request was sent'})"
        others = [other for other in self._subjects if other != subject]
        if subject.label == self._plan.baseline or len(others) < 2:
            raise ServiceError(self._service.address.authority, None, problem)
        self._subjects = others
        self._recording.notes.append(f"left out from then on, {problem}")

    def _tell(
        self, mode: Mode | None, label: str, rate: float | None, sample: Sample | None, took: float
    ) -> None:
        self._done += took
        share = min(1.0, self._done / self._all)
        self._on_block(Progress(mode, label, rate, sample, share))


def guess_seconds(plan: Plan) -> float:
    """How long a plan is going to take, about."""
    each = len(plan.subjects)
    seconds = plan.warm_seconds * each
    opened = plan.open_seconds(plan.rate) if plan.rate else plan.seconds
    lengths = {"closed": plan.seconds, "open": opened, "steps": 0.0}
    seconds += sum(lengths[mode] for mode in plan.modes) * plan.rounds * each
    if "steps" in plan.modes:
        steps = math.log(2 / FIRST_STEP) / math.log(plan.step) + MISSES
        steps += (plan.sweeps - 1) * 2 * (1 + MISSES)
        seconds += steps * plan.step_seconds * each
    return seconds


def _round(rate: float) -> float:
    """To three digits, as it is shown."""
    return float(f"{max(0.1, rate):.3g}")
