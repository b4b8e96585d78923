"""Plan of a load test, and the order of its blocks.

Interleaved, each round has one block per variant, in a random order drawn for that round. Other
load on the machine thus affects all variants alike, and the comparison's error guarantee rests on
the random order: see `analysis`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from slimq.core.errors import InvalidInputError, NotFoundError

Mode = Literal["closed", "open", "steps"]
Order = Literal["interleaved", "alone"]
MODES: tuple[Mode, ...] = get_args(Mode)

STATISTICS: dict[Mode, tuple[str, ...]] = {
    "closed": ("throughput", "p10", "p50", "p99", "processor"),
    "open": ("p10", "p50", "p99", "processor"),
    "steps": (),
}
"""Statistics compared in each mode; at a constant rate the throughput is the rate.

p10 is the time of an undisturbed request: on a busy machine it shows differences of a few per cent
that the others cannot.
"""

ERROR_RATE = 0.01
"""Maximum probability that a load test reports any difference where there is none."""

MIN_REQUESTS = 10
"""Minimum requests in the measured part of a block of `open` or `steps`."""
SETTLE_SHARE = 0.1
"""Share of a block excluded at its start, for after-effects of the previous block."""


@dataclass(frozen=True)
class Subject:
    """A variant under test; `label` is unique even if a variant is listed twice."""

    label: str
    variant: str


@dataclass(frozen=True)
class Plan:
    """Settings of a load test.

    Attributes:
        subjects: the variants, with their labels.
        baseline: label of the variant that the others are compared with.
        modes: load modes, in the order in which they run.
        order: order of the blocks in `closed` and `open`.
        connections: connections of `closed`, all kept busy.
        max_connections: connections of `open` and `steps`; while all are busy, due requests wait.
        rate: requests per second of `open`; None for half the slowest variant's throughput.
        p99_us: maximum p99 at a rate that counts as sustained.
        rounds: rounds of `closed` and of `open`.
        seconds: length of a block of `closed` and `open`.
        sweeps: number of sweeps through the steps.
        step: ratio of consecutive rates in the first sweep; later sweeps use its square root.
        step_seconds: length of a block of `steps`.
        batch: observations per request.
        timeout: seconds after which a request fails.
        warm_seconds: seconds of warm-up load for each variant.
        minutes: time limit; no block starts that would exceed it.
        seed: seed of the order.
    """

    subjects: tuple[Subject, ...]
    baseline: str
    modes: tuple[Mode, ...] = MODES
    order: Order = "interleaved"
    connections: int = 4
    max_connections: int = 64
    rate: float | None = None
    p99_us: float = 10_000.0
    rounds: int = 20
    seconds: float = 0.5
    sweeps: int = 3
    step: float = 1.25
    step_seconds: float = 2.0
    batch: int = 1
    timeout: float = 5.0
    warm_seconds: float = 1.0
    minutes: float = 15.0
    seed: int = 0

    @property
    def comparisons(self) -> int:
        """Number of comparisons with the baseline."""
        if self.order == "alone":
            return 0
        return (len(self.subjects) - 1) * sum(len(STATISTICS[mode]) for mode in self.modes)

    def check(self) -> None:
        """Checks that there are enough rounds for the comparisons, and that blocks are long enough.

        Raises:
            InvalidInputError: with so few rounds no difference, however large, could be detected;
                or blocks of the open loop are too short for `MIN_REQUESTS`.
        """
        needed = needed_rounds(self.comparisons)
        if self.comparisons and self.rounds < needed:
            expected = f"at least {needed} for {self.comparisons} comparisons"
            raise InvalidInputError("--rounds", expected, str(self.rounds))
        if "open" in self.modes and self.rate and self.open_seconds(self.rate) > self.seconds:
            minimum = f"at least {self.open_seconds(self.rate):g}"
            expected = f"{minimum} at --rate {self.rate:g}, so that {MIN_REQUESTS} requests count"
            raise InvalidInputError("--seconds", expected, f"{self.seconds:g}")

    def open_seconds(self, rate: float) -> float:
        """Length of a block of `open`, extended if needed for `MIN_REQUESTS`."""
        return max(self.seconds, _min_seconds(rate))

    def step_seconds_at(self, rate: float) -> float:
        """Length of a block of `steps`, extended if needed for `MIN_REQUESTS`."""
        return max(self.step_seconds, _min_seconds(rate))


def _min_seconds(rate: float) -> float:
    return math.ceil(1e3 * MIN_REQUESTS / ((1 - SETTLE_SHARE) * rate)) / 1e3


def needed_rounds(comparisons: int) -> int:
    """Minimum rounds for any verdict: with fewer, even equal signs in all rounds are too likely."""
    return math.ceil(math.log2(2 * max(1, comparisons) / ERROR_RATE))


def name_subjects(variants: Sequence[str], known: Sequence[str]) -> tuple[Subject, ...]:
    """Makes one subject per name; a repeated name gets a label such as `fp32#2`.

    Raises:
        InvalidInputError: no names are given.
        NotFoundError: the policy has no variant of this name.
    """
    if not variants:
        raise InvalidInputError("--variants", "comma-separated names", "none")
    seen: dict[str, int] = {}
    subjects = []
    for variant in variants:
        if variant not in known:
            raise NotFoundError("variant", variant, known)
        seen[variant] = seen.get(variant, 0) + 1
        number = seen[variant]
        subjects.append(Subject(variant if number == 1 else f"{variant}#{number}", variant))
    return tuple(subjects)


def choose_baseline(subjects: Sequence[Subject], requested: str | None, default: str) -> str:
    """The requested label, or the policy's default baseline, or the first subject.

    Raises:
        NotFoundError: the requested label is not among the subjects.
    """
    labels = [subject.label for subject in subjects]
    if requested is None:
        return default if default in labels else labels[0]
    if requested not in labels:
        raise NotFoundError("baseline", requested, labels)
    return requested


def blocks(plan: Plan) -> Iterator[tuple[int, Subject]]:
    """Yields round and subject of every block of one mode, in order."""
    if plan.order == "alone":
        for subject in plan.subjects:
            for number in range(plan.rounds):
                yield number, subject
        return
    generator = np.random.default_rng(plan.seed)
    for number in range(plan.rounds):
        for index in generator.permutation(len(plan.subjects)):
            yield number, plan.subjects[index]
