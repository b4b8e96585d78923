"""The order in which `slimq shrink` tries techniques: cheap ones first, then by progress in size.

1. Post-training quantization of the policy's own network, which takes seconds: int8, then codes of
   fewer and fewer bits while they pass; then the same for the inner layers alone, since the first
   and the last have few weights, each of which matters.
2. A short training run, which shows how long a full one takes on this machine, and so how many fit
   the time.
3. Students of 1/16 of the parameters. A pass leads to 1/4 of the size; a failure with every seed
   leads back towards the last size that passed, until the two are close. A student that passes is
   also stored with fewer bits per weight.
4. The same with twice the training, from the smallest student that passed.

Everything here is a function of the trials so far, so that an interrupted run continues as it would
have, and several workers need to share nothing but the study.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Technique = Literal["whole", "inner", "fitted", "narrowed"]
Form = Literal["fp32", "int8", "codes"]

FIRST_SHARE, LARGEST_SHARE, STEP = 1 / 16, 1 / 4, 4.0
"""The first share of a family of students, its largest share, and the ratio of one step."""
CLOSE = 1.6
"""A family ends once its smallest passing share is at most this multiple of a failing one."""
SEEDS = 2
"""Training runs of one share before it counts as failed."""
BITS = (8, 6, 5, 4)
"""Bits per code, in order; 8 leaves something to publish if the gate refuses fewer."""
OWN: tuple[Technique, ...] = ("whole", "inner")
"""Techniques that keep the policy's own layers."""
PROBE_EFFORT = 0.02
"""Share of the full training that is run to measure how long it takes."""
TRAININGS = 10
"""Training runs that should fit the time at the first effort."""
EFFORTS = (0.1, 0.25, 0.5, 1.0)
"""Candidates for the first effort: the largest at which `TRAININGS` fit is taken."""
MAX_EFFORT = 4.0


@dataclass(frozen=True)
class Rung:
    """One trial.

    Attributes:
        technique: `whole` or `inner` for the policy's own layers, of which all but the head, or all
            but the first and the head, take the form; `fitted` or `narrowed` for a student of this
            shape.
        share: weights and biases as a share of the full policy's; 1 for its own layers.
        form: form of the weights.
        bits: bits per code; 0 for the other forms.
        seed: seed of the recipe.
        effort: share of the full training; 0 without one.
    """

    technique: Technique
    share: float = 1.0
    form: Form = "fp32"
    bits: int = 0
    seed: int = 0
    effort: float = 0.0

    @property
    def trains(self) -> bool:
        """Whether it needs training."""
        return self.technique not in OWN

    def describe(self) -> str:
        """Short description, such as `fitted 1/64, 6-bit codes`."""
        shape = f"{self.technique} 1/{1 / self.share:.0f}" if self.trains else self.technique
        form = f"{self.bits}-bit codes" if self.form == "codes" else self.form
        return f"{shape}, {form}"


@dataclass(frozen=True)
class Tried:
    """A rung that was tried, or that another worker is trying.

    Attributes:
        rung: the rung.
        passed: whether its loss was within the margin; None while it runs.
        seconds: duration of its training, or of the trial if it needs none; 0 while it runs.
        possible: False if it would fail with any seed and any amount of training.
    """

    rung: Rung
    passed: bool | None
    seconds: float = 0.0
    possible: bool = True


@dataclass(frozen=True)
class Terms:
    """The resources of a run.

    Attributes:
        techniques: shapes of students that fit the policy, in order of preference.
        own: ways to keep the policy's own layers.
        own_codes: whether their weights can be stored as codes.
        seconds: processor time of the whole run, over all workers.
        seed: the first seed.
        first_share: the first student's share.
    """

    techniques: tuple[Technique, ...]
    own: tuple[Technique, ...]
    own_codes: bool
    seconds: float
    seed: int = 0
    first_share: float = FIRST_SHARE


def next_rungs(tried: Sequence[Tried], terms: Terms) -> Iterator[Rung]:
    """Yields the rungs to try next, best first, without those being tried.

    Args:
        tried: all trials so far, in any order.
        terms: the resources of the run.
    """
    known = {one.rung for one in tried}
    for rung in _candidates(tried, terms):
        if rung not in known:
            yield rung


def expected_seconds(rung: Rung, tried: Sequence[Tried]) -> float:
    """Seconds that a rung is expected to take; 0 if unknown.

    A training of the same share, seed and effort in another form is not repeated.
    """
    if not rung.trains:
        return 0.0
    base = replace(rung, form="fp32", bits=0)
    if rung != base and any(one.rung == base and one.passed is not None for one in tried):
        return 0.0
    return rung.effort * _full_seconds(tried)


def first_effort(tried: Sequence[Tried], terms: Terms) -> float | None:
    """The effort of the first training runs; None if not even the smallest fits the time."""
    full = _full_seconds([one for one in tried if one.rung.effort == PROBE_EFFORT])
    fitting = [effort for effort in EFFORTS if effort * full * TRAININGS <= terms.seconds]
    if fitting:
        return fitting[-1]
    return EFFORTS[0] if EFFORTS[0] * full <= terms.seconds else None


def _candidates(tried: Sequence[Tried], terms: Terms) -> Iterator[Rung]:
    for technique in terms.own:
        yield Rung(technique, form="int8", seed=terms.seed)
        if terms.own_codes:
            yield from _fewer_bits(Rung(technique, form="codes", seed=terms.seed), tried)
    if not terms.techniques:
        return
    yield Rung(terms.techniques[0], terms.first_share, seed=terms.seed, effort=PROBE_EFFORT)
    effort = first_effort(tried, terms)
    if not _full_seconds(tried) or effort is None:
        return
    yield from _forms(tried, terms)
    while effort <= MAX_EFFORT:
        for technique in _by_size(tried, terms):
            yield from _next_shares(technique, effort, tried, terms)
        shares = (_next_share(t, effort, tried, terms.first_share) for t in terms.techniques)
        if any(share is not None for share in shares):
            return
        effort *= 2


def _forms(tried: Sequence[Tried], terms: Terms) -> Iterator[Rung]:
    """Yields other forms of the smallest passing student of each shape."""
    for technique in terms.techniques:
        passed = [one.rung for one in tried if one.passed and _is_student(one.rung, technique)]
        if passed:
            smallest = min(passed, key=lambda rung: (rung.share, rung.effort, rung.seed))
            yield from _fewer_bits(smallest, tried)


def _fewer_bits(rung: Rung, tried: Sequence[Tried]) -> Iterator[Rung]:
    """Yields codes of fewer and fewer bits while they pass."""
    found = {one.rung: one.passed for one in tried}
    for number in BITS:
        coded = replace(rung, form="codes", bits=number)
        yield coded
        if not found.get(coded):
            return


def _by_size(tried: Sequence[Tried], terms: Terms) -> list[Technique]:
    """Shapes ordered by their smallest passing student; shapes without one come first."""

    def key(technique: Technique) -> tuple[bool, float, int]:
        shares = [one.rung.share for one in tried if one.passed and one.rung.technique == technique]
        return bool(shares), min(shares, default=0.0), terms.techniques.index(technique)

    return sorted(terms.techniques, key=key)


def _next_shares(
    technique: Technique, effort: float, tried: Sequence[Tried], terms: Terms
) -> Iterator[Rung]:
    """Yields the next training runs of one shape, with every seed of the next share."""
    share = _next_share(technique, effort, tried, terms.first_share)
    if share is None:
        return
    for seed in range(terms.seed, terms.seed + SEEDS):
        yield Rung(technique, share, seed=seed, effort=effort)


def _next_share(
    technique: Technique, effort: float, tried: Sequence[Tried], first: float
) -> float | None:
    """The share to train next or being trained; None once the size has converged."""
    students = [one for one in tried if _is_student(one.rung, technique)]
    passing = min((one.rung.share for one in students if one.passed), default=None)
    failed = _failed_shares(students, effort)
    if passing is None:
        if not failed:
            return first
        return STEP * failed[-1] if failed[-1] < LARGEST_SHARE else None
    below = max((share for share in failed if share < passing), default=None)
    if below is None:
        return passing / STEP
    if passing / below <= CLOSE:
        return None
    return math.sqrt(passing * below)


def _failed_shares(students: Sequence[Tried], effort: float) -> list[float]:
    """Shares that failed with every seed at an effort, ascending."""
    failures: dict[float, int] = {}
    for one in students:
        if one.passed is False and (one.rung.effort >= effort or not one.possible):
            share = one.rung.share
            failures[share] = failures.get(share, 0) + (1 if one.possible else SEEDS)
    return sorted(share for share, count in failures.items() if count >= SEEDS)


def _is_student(rung: Rung, technique: Technique) -> bool:
    return rung.technique == technique and rung.form == "fp32"


def _full_seconds(tried: Sequence[Tried]) -> float:
    """Seconds of a full training, extrapolated from the longest so far; 0 if there was none."""
    trained = [one for one in tried if one.rung.trains and one.rung.form == "fp32" and one.seconds]
    if not trained:
        return 0.0
    longest = max(trained, key=lambda one: one.rung.effort)
    return longest.seconds / longest.rung.effort
