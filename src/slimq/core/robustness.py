"""Compares a variant with the full policy under each condition, from their reports.

A variant is *robust* if it is non-inferior undisturbed, and under every standard condition for its
observations. Bounds under conditions are simultaneous, by Bonferroni's correction: each of m
conditions has a confidence of 1 − 0.05 / m. A variant's results under all conditions are read as a
whole, and the correction holds for dependent results, as these are, since episodes share their
seeds.

If the full policy itself loses more than half of its gain over random play under a condition, there
is little left to compare; the condition is reported and decides nothing. The same goes for a
condition with fewer than `MIN_EPISODES`, since resampling cannot show what did not happen in so
few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from slimq.core.conditions.catalogue import Condition, standard_conditions
from slimq.core.errors import InvalidInputError
from slimq.core.observation import ObservationSpec
from slimq.core.report import ConditionReport, EvaluationReport, Interval
from slimq.core.statistics import (
    CONFIDENCE,
    MARGIN,
    RESAMPLES,
    PairedDifference,
    mean_interval,
    paired_difference,
)

CONDITION_MARGIN = 0.05
"""Share of the baseline's undisturbed return above random that may be lost under a condition.

Wider than undisturbed, since returns vary several times as much: with 100 episodes, a copy of the
full policy with other random numbers could not be told from a variant that loses 2 %."""
MAX_OWN_LOSS = 0.5
"""Maximum loss of the full policy itself under a condition that decides."""
MIN_EPISODES = 20
"""Minimum episodes under a condition that decides.

The bootstrap's bounds are too narrow for fewer: for a variant that loses exactly the margin, with a
standard deviation of 19 % of the scale, the bound at 99 % is within the margin in 47 % of all cases
for one episode, in 7 % for 5, in 1 % for 20; nominally it is in 0.5 %."""


@dataclass(frozen=True)
class ConditionResult:
    """A variant under one condition; a field is None if there is nothing to compute it from.

    Attributes:
        standard: whether the condition is in the standard set.
        mean: the variant's mean return.
        interval: its 95 % interval.
        episodes: number of episodes.
        full_mean: the full policy's mean return under the same condition, over all its episodes.
        full_loss: the full policy's own loss under the condition, as a share of full − random.
        difference: difference from the full policy under the same condition, paired by seed over
            the episodes that both have played, with simultaneous bounds.
        note: the reason why there is no difference; None if there is one.
    """

    condition: Condition
    standard: bool
    mean: float
    interval: Interval
    episodes: int
    full_mean: float | None
    full_loss: float | None
    difference: PairedDifference | None
    note: str | None = None

    @property
    def decides(self) -> bool:
        """Whether the full policy itself plays well enough, over enough episodes."""
        return self.is_long and self.full_loss is not None and is_decisive(self.full_loss)

    @property
    def is_long(self) -> bool:
        """Whether it has enough episodes to decide, or enough pairs of them if it is paired."""
        count = self.episodes if self.difference is None else self.difference.episodes
        return count >= MIN_EPISODES

    @property
    def non_inferior(self) -> bool | None:
        """Whether the loss at the lower bound is within the margin; None if undecided."""
        if self.difference is None or not self.decides:
            return None
        return self.difference.non_inferior


@dataclass(frozen=True)
class Robustness:
    """A variant's evidence under all conditions that it was played under.

    Attributes:
        results: the standard conditions first, in their order, then the others.
        missing: standard conditions without a comparison, or with too few episodes.
        robust: whether it is non-inferior undisturbed and under all standard conditions; None if
            one is missing or none decides, unless another already failed.
    """

    results: tuple[ConditionResult, ...]
    missing: tuple[Condition, ...]
    robust: bool | None

    @property
    def failed(self) -> tuple[ConditionResult, ...]:
        """The standard conditions under which it is not non-inferior."""
        return tuple(r for r in self.results if r.standard and r.non_inferior is False)

    @property
    def decided(self) -> bool:
        """Whether any standard condition decides."""
        return any(r.standard and r.non_inferior is not None for r in self.results)


def simultaneous_confidence(conditions: int, confidence: float = CONFIDENCE) -> float:
    """The confidence of each of several simultaneous intervals, by Bonferroni's correction."""
    return 1 - (1 - confidence) / max(1, conditions)


def own_loss(undisturbed: Sequence[float], disturbed: Sequence[float], scale: float) -> float:
    """The full policy's own loss under a condition, as a share of full − random.

    Args:
        undisturbed: its undisturbed returns.
        disturbed: its returns under the condition.
        scale: its undisturbed mean return above random play's.
    """
    return float(np.mean(undisturbed) - np.mean(disturbed)) / scale


def is_decisive(full_loss: float) -> bool:
    """Whether the full policy still plays well enough under a condition to be compared with."""
    return full_loss <= MAX_OWN_LOSS


def compare_under_condition(
    returns: Sequence[float],
    full: Sequence[float],
    scale: float,
    confidence: float,
    resamples: int = RESAMPLES,
) -> PairedDifference:
    """Compares a variant with the full policy under the same condition, episode by episode.

    Args:
        returns: the variant's returns, in seed order.
        full: the full policy's returns under the same condition, from the same seed on; only the
            episodes that both have played are compared.
        scale: the full policy's undisturbed mean return above random play's.
        confidence: confidence of the interval, from `simultaneous_confidence`.
        resamples: bootstrap resamples.
    """
    count = min(len(returns), len(full))
    ratios = (np.asarray(returns[:count]) - np.asarray(full[:count])) / scale
    bounds = mean_interval(ratios, resamples=resamples, confidence=confidence)
    mean = float(ratios.mean())
    return PairedDifference(mean, bounds.low, bounds.high, CONDITION_MARGIN, len(ratios))


def judge_robustness(
    variant: EvaluationReport,
    full: EvaluationReport,
    observation: ObservationSpec,
    random_mean: float,
    undisturbed: PairedDifference | None = None,
) -> Robustness:
    """Judges a variant under every condition of its report.

    Args:
        variant: the report of the variant.
        full: the report of the baseline.
        observation: layout of the policy's observations.
        random_mean: mean return of a uniformly random policy, undisturbed.
        undisturbed: the `paired_difference` of the two, if already computed.

    Raises:
        InvalidInputError: the two cannot be compared undisturbed; see `paired_difference`.
    """
    undisturbed = undisturbed or paired_difference(variant, full, random_mean, MARGIN)
    standard = standard_conditions(observation)
    scale = (full.mean or 0.0) - random_mean
    confidence = simultaneous_confidence(len(standard), _confidence(full))
    order = {condition: place for place, condition in enumerate(standard)}
    played = sorted(variant.conditions, key=lambda c: order.get(c.condition, len(order)))
    results = tuple(
        _compare(found, full, scale, confidence, standard=found.condition in order)
        for found in played
    )
    measured = {r.condition for r in results if r.difference is not None and r.is_long}
    missing = tuple(condition for condition in standard if condition not in measured)
    verdicts = [undisturbed.non_inferior, *(r.non_inferior for r in results if r.standard)]
    robust: bool | None = False not in verdicts
    found = Robustness(results, missing, robust)
    return replace(found, robust=None) if robust and (missing or not found.decided) else found


def _compare(
    found: ConditionReport,
    full: EvaluationReport,
    scale: float,
    confidence: float,
    *,
    standard: bool,
) -> ConditionResult:
    other = full.under(found.condition)
    note = _mismatch(found, other, full.variant)
    if other is None or note is not None or full.mean is None or full.protocol is None:
        return ConditionResult(
            condition=found.condition,
            standard=standard,
            mean=found.mean,
            interval=found.interval,
            episodes=len(found.returns),
            full_mean=None,
            full_loss=None,
            difference=None,
            note=note,
        )
    undisturbed = (full.returns or [])[: len(other.returns)]
    whole = len(undisturbed) == len(other.returns)
    return ConditionResult(
        condition=found.condition,
        standard=standard,
        mean=found.mean,
        interval=found.interval,
        episodes=len(found.returns),
        full_mean=other.mean,
        full_loss=own_loss(undisturbed if whole else [full.mean], other.returns, scale),
        difference=compare_under_condition(
            found.returns, other.returns, scale, confidence, full.protocol.resamples
        ),
    )


def _mismatch(found: ConditionReport, other: ConditionReport | None, full: str) -> str | None:
    """The reason why two reports of a condition cannot be paired; None if they can."""
    label = found.condition.label
    if other is None:
        return f"{full} was not played under {label}"
    if (found.spread, found.code_sha256) == (other.spread, other.code_sha256):
        return None
    return f"{label} was played with other settings than by {full}: evaluate both again"


def _confidence(report: EvaluationReport) -> float:
    if report.protocol is None:
        raise InvalidInputError(f"report of {report.variant}", "one from play", "recorded states")
    return report.protocol.confidence
