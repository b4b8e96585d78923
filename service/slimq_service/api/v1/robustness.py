"""The comparison of a variant with the full policy, undisturbed and under conditions, as JSON."""

from __future__ import annotations

from pydantic import BaseModel, Field

from slimq.core.conditions.catalogue import Condition
from slimq.core.evidence import Judgement
from slimq.core.robustness import ConditionResult
from slimq.core.statistics import PairedDifference


class Difference(BaseModel):
    """Return minus the baseline's, paired by episode, as shares of full minus random."""

    mean: float
    low: float = Field(description="lower bound; those under conditions hold simultaneously")
    high: float
    margin: float = Field(description="loss at the lower bound that is still non-inferior")
    episodes: int


class ConditionEvidence(BaseModel):
    """A variant under one condition; null where there is nothing to compare with."""

    condition: Condition
    label: str = Field(description="as on the command line, such as `noise=4`")
    effect: str = Field(description="what happens, in words")
    standard: bool = Field(description="whether it counts for `robust`")
    mean: float = Field(description="mean return")
    interval: tuple[float, float] = Field(description="its 95 % confidence interval")
    episodes: int
    full_mean: float | None = Field(description="the baseline's mean return under it")
    full_loss: float | None = Field(
        description="what the baseline itself loses under it, as a share of full minus random"
    )
    difference: Difference | None
    decides: bool = Field(
        description="false if the baseline itself loses more than half, or episodes are too few"
    )
    non_inferior: bool | None = Field(description="under this condition; null if undecided")
    note: str | None = Field(description="why no difference is given")


class RobustnessReport(BaseModel):
    """The evidence of one variant, computed from its report and the baseline's."""

    robust: bool | None = Field(
        default=None,
        description="non-inferior undisturbed and under all standard conditions; null if unknown",
    )
    undisturbed: Difference | None = None
    fails_under: list[str] = Field(
        default_factory=list,
        description="where it fails to be non-inferior: `undisturbed`, or labels of standard "
        "conditions",
    )
    missing: list[str] = Field(
        default_factory=list,
        description="standard conditions without a comparison, or with too few episodes",
    )
    conditions: list[ConditionEvidence] = Field(
        default_factory=list, description="the standard ones first"
    )
    problem: str | None = Field(default=None, description="why there is no comparison")


def describe(judgement: Judgement | None) -> RobustnessReport | None:
    """The judgement as JSON; None if there is none."""
    if judgement is None:
        return None
    undisturbed, robustness = judgement.undisturbed, judgement.robustness
    if undisturbed is None or robustness is None:
        return RobustnessReport(problem=judgement.problem)
    return RobustnessReport(
        robust=robustness.robust,
        undisturbed=_difference(undisturbed),
        fails_under=judgement.fails_under,
        missing=[condition.label for condition in robustness.missing],
        conditions=[_condition(found) for found in robustness.results],
    )


def _condition(found: ConditionResult) -> ConditionEvidence:
    return ConditionEvidence(
        condition=found.condition,
        label=found.condition.label,
        effect=found.condition.effect,
        standard=found.standard,
        mean=found.mean,
        interval=(found.interval.low, found.interval.high),
        episodes=found.episodes,
        full_mean=found.full_mean,
        full_loss=found.full_loss,
        difference=None if found.difference is None else _difference(found.difference),
        decides=found.decides,
        non_inferior=found.non_inferior,
        note=found.note,
    )


def _difference(found: PairedDifference) -> Difference:
    return Difference(
        mean=found.mean,
        low=found.low,
        high=found.high,
        margin=found.margin,
        episodes=found.episodes,
    )
