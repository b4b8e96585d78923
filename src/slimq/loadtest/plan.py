"""What a load test is to do, and in which order the variants take their turns.

Interleaved, every round has one block of each variant, in an order that is drawn anew for each
round. Whatever else the machine does meets all variants alike, and the drawn order is what the
comparison's guarantee rests on: see `analysis`.
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
"""What is compared in each mode; at a constant rate the throughput is the rate.

p10 is what a request takes when nothing gets in its way: on a busy machine it shows differences of
a few per cent when the others cannot.
"""

ERROR_RATE = 0.01
"""Probability that any difference at all is called real in a test where there is none."""


MIN_REQUESTS = 10
"""That a block of `open` or `steps` must have in the part that counts."""
SETTLE_SHARE = 0.1
"""Of a block's start that is not counted: what the block before left behind meets it."""


@dataclass(frozen=True)
class Subject:
    """A variant under test; `label` tells it from itself where it is named twice."""

    label: str
    variant: str


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        subjects: the variants, each with its label.
        baseline: label of the one that the others are held to.
        modes: in the order in which they run.
        order: of the blocks of `closed` and `open`.
        connections: of `closed`, all of them busy.
        max_connections: of `open` and `steps`; what is due while all are busy waits.
        rate: requests per second of `open`; None for half of what the slowest variant can do.
        p99_us: what the p99 may be at a rate that counts as held.
        rounds: of `closed` and of `open`.
        seconds: of a block.
        sweeps: how often the steps are climbed.
        step: a rate over the one before, in the first sweep; its root in those that follow.
        step_seconds: of a block of `steps`.
        batch: observations in a request.
        timeout: seconds after which a request has failed.
        warm_seconds: of load that each variant gets before anything counts.
        minutes: no block begins after so many.
        seed: of the order.
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
        """How many differences are looked at."""
        if self.order == "alone":
            return 0
        return (len(self.subjects) - 1) * sum(len(STATISTICS[mode]) for mode in self.modes)

    def check(self) -> None:
        """Holds rounds to what the comparisons need, and blocks to what a rate needs.

        Raises:
            InvalidInputError: with so few rounds no difference, however large, could be told; or
                with so short blocks hardly a request of the open loop would count.
        """
        needed = needed_rounds(self.comparisons)
        if self.comparisons and self.rounds < needed:
            expected = f"at least {needed} for {self.comparisons} comparisons"
            raise InvalidInputError("--rounds", expected, str(self.rounds))
        if "open" in self.modes and self.rate and self.open_seconds(self.rate) > self.seconds:
            least = f"at least {self.open_seconds(self.rate):g}"
            expected = f"{least} at --rate {self.rate:g}, so that {MIN_REQUESTS} requests count"
            raise InvalidInputError("--seconds", expected, f"{self.seconds:g}")

    def open_seconds(self, rate: float) -> float:
        """Length of a block of `open`: longer than asked for where hardly a request would count."""
        return max(self.seconds, _least_seconds(rate))

    def step_seconds_at(self, rate: float) -> float:
        """Length of a block of `steps`: longer than asked for where few requests would count."""
        return max(self.step_seconds, _least_seconds(rate))


def _least_seconds(rate: float) -> float:
    return math.ceil(1e3 * MIN_REQUESTS / ((1 - SETTLE_SHARE) * rate)) / 1e3


def needed_rounds(comparisons: int) -> int:
    """With fewer, not even a difference of one sign in all rounds is rare enough."""
    return math.ceil(math.log2(2 * max(1, comparisons) / ERROR_RATE))


def name_subjects(variants: Sequence[str], known: Sequence[str]) -> tuple[Subject, ...]:
    """One subject for each name; a name that comes again is `fp32#2`.

    Raises:
        InvalidInputError: there is no name.
        NotFoundError: a name is none of the policy's variants.
    """
    if not variants:
        raise InvalidInputError("--variants", "names with commas between them", "none")
    seen: dict[str, int] = {}
    subjects = []
    for variant in variants:
        if variant not in known:
            raise NotFoundError("variant", variant, known)
        seen[variant] = seen.get(variant, 0) + 1
        number = seen[variant]
        subjects.append(Subject(variant if number == 1 else f"{variant}#{number}", variant))
    return tuple(subjects)


def choose_baseline(subjects: Sequence[Subject], asked: str | None, usual: str) -> str:
    """The label of what was asked for, else the policy's own baseline, else the first.

    Raises:
        NotFoundError: what was asked for is not among the subjects.
    """
    labels = [subject.label for subject in subjects]
    if asked is None:
        return usual if usual in labels else labels[0]
    if asked not in labels:
        raise NotFoundError("baseline", asked, labels)
    return asked


def blocks(plan: Plan) -> Iterator[tuple[int, Subject]]:
    """Round and subject of every block of one mode, in their order."""
    if plan.order == "alone":
        for subject in plan.subjects:
            for number in range(plan.rounds):
                yield number, subject
        return
    generator = np.random.default_rng(plan.seed)
    for number in range(plan.rounds):
        for index in generator.permutation(len(plan.subjects)):
            yield number, plan.subjects[index]
