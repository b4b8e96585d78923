"""Compares a variant with the full policy under each condition, from their reports.

A variant is *robust* if it is non-inferior undisturbed, and under every standard condition for its
observations. Bounds under conditions are simultaneous, by Bonferroni's correction: of m conditions,
each has a confidence of 1 − 0.05 / m. The table of a variant's conditions is read as a whole, and
the correction holds however its rows depend on each other, as they do: episodes share their seeds.

Under a condition in which the full policy itself has lost more than half of what it gains over
random play, there is little left to compare; it is reported and decides nothing. The same goes for
one with fewer than `MIN_EPISODES`: resampling knows nothing about what did not happen in them.
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

Wider than undisturbed: returns vary several times as much, so that within 100 episodes a copy of
the full policy that plays other random numbers could not be told from one that loses 2 %."""
MAX_OWN_LOSS = 0.5
"""Beyond this loss of the full policy itself, a condition decides nothing."""
MIN_EPISODES = 20
"""Episodes under a condition from which on it decides.

The bootstrap's bounds are too narrow for fewer: of a variant that loses exactly the margin, with a
standard deviation of 19 % of the scale, the bound at 99 % is within it in 47 % of all cases for one
episode, in 7 % for 5, in 1 % for 20; 0.5 % is nominal."""


@dataclass(frozen=True)
class ConditionResult:
    """A variant under one condition; a field is None if there is nothing to compute it from.

    Attributes:
        standard: whether the condition is in the standard set.
        mean: the variant's mean return.
        interval: its 95 % interval.
        episodes: number of episodes.
        full_mean: the full policy's mean return under the same condition.
        full_loss: what the full policy loses by the condition, as a share of full − random.
        difference: difference from the full policy under the same condition, paired by seed, with
            simultaneous bounds.
        note: why there is no difference.
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
        """Whether enough is left of the full policy's own play, over enough episodes."""
        return self.is_long and self.full_loss is not None and is_decisive(self.full_loss)

    @property
    def is_long(self) -> bool:
        """Whether it has enough episodes to decide."""
        return self.episodes >= MIN_EPISODES

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
        missing: standard conditions for which there is no comparison, or of too few episodes.
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
    """The confidence of each of so many intervals, by Bonferroni's correction."""
    return 1 - (1 - confidence) / max(1, conditions)


def own_loss(undisturbed: Sequence[float], disturbed: Sequence[float], scale: float) -> float:
    """The full policy's own loss by a condition, as a share of full − random.

    Args:
        undisturbed: its returns without the condition.
        disturbed: its returns under the condition.
        scale: its undisturbed mean return above random play's.
    """
    return float(np.mean(undisturbed) - np.mean(disturbed)) / scale


def is_decisive(full_loss: float) -> bool:
    """Whether a condition leaves enough of the full policy's own play to compare with."""
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
        returns: the variant's, in seed order.
        full: the full policy's under the same condition, on the same seeds.
        scale: the full policy's undisturbed mean return above random play's.
        confidence: as of `simultaneous_confidence`.
        resamples: bootstrap resamples.
    """
    ratios = (np.asarray(returns) - np.asarray(full)) / scale
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
        undisturbed: the `paired_difference` of the two, where it is known already.

    Raises:
        InvalidInputError: as `paired_difference`, for undisturbed play.
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
    """Why two reports of a condition cannot be paired; None if they can."""
    label = found.condition.label
    if other is None:
        return f"{full} was not played under {label}"
    same = (found.spread, found.code_sha256) == (other.spread, other.code_sha256)
    if same and len(found.returns) == len(other.returns):
        return None
    return f"{label} was played with other settings than by {full}: evaluate both again"


def _confidence(report: EvaluationReport) -> float:
    if report.protocol is None:
        raise InvalidInputError(f"report of {report.variant}", "one from play", "recorded states")
    return report.protocol.confidence
