"""The evidence for one variant: its report compared with the full policy's, and a description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from slimq.core.conditions.catalogue import Condition
from slimq.core.errors import InvalidInputError, SlimqError
from slimq.core.manifest import PolicyManifest, VariantManifest, is_stale, random_mean
from slimq.core.report import EvaluationReport
from slimq.core.repository import Repository
from slimq.core.robustness import Robustness, judge_robustness
from slimq.core.statistics import PairedDifference, paired_difference

UNDISTURBED = "undisturbed"


@dataclass(frozen=True)
class Judgement:
    """The evidence for one variant.

    Attributes:
        undisturbed: the difference from the full policy in undisturbed play; None if unknown.
        robustness: its differences under conditions; None if unknown.
        problem: the reason why they are unknown; None if they are known.
    """

    undisturbed: PairedDifference | None = None
    robustness: Robustness | None = None
    problem: str | None = None

    @property
    def fails_under(self) -> list[str]:
        """Standard conditions under which it is not non-inferior, undisturbed play first."""
        if self.undisturbed is None or self.robustness is None:
            return []
        failed = [] if self.undisturbed.non_inferior else [UNDISTURBED]
        return failed + [found.condition.label for found in self.robustness.failed]


def judge(
    policy: PolicyManifest,
    variant: VariantManifest,
    report: EvaluationReport | None,
    baseline: VariantManifest | None,
    full: EvaluationReport | None,
    max_draws: int | None = None,
) -> Judgement:
    """Compares a variant with the full policy; takes 10 to 100 ms.

    Args:
        policy: the policy's manifest.
        variant: the variant's manifest.
        report: its report.
        baseline: the manifest of the full policy's variant.
        full: the full policy's report.
        max_draws: maximum number of returns that the bootstraps may draw; None for no limit.

    Raises:
        InvalidInputError: there is nothing to compare, or the two cannot be compared.
    """
    if report is None or baseline is None or full is None:
        expected = f"an evaluated baseline, {policy.baseline_variant}"
        raise InvalidInputError(f"policy {policy.name}", expected, "none")
    if None not in (variant.parent, baseline.parent) and variant.parent != baseline.parent:
        received = f"one made from another checkpoint than {baseline.name}"
        raise InvalidInputError(f"variant {variant.name}", "one of the same checkpoint", received)
    draws = _draws(report, full)
    if max_draws is not None and draws > max_draws:
        expected = f"at most {max_draws:,} draws of its bootstraps"
        raise InvalidInputError(f"report of {variant.name}", expected, f"{draws:,}")
    zero = random_mean(policy)
    try:
        with np.errstate(all="ignore"):
            undisturbed = paired_difference(report, full, zero)
            robustness = judge_robustness(report, full, policy.observation, zero, undisturbed)
    except ValidationError as error:  # the ends of an interval must be finite
        expected = "returns with a finite difference from the baseline's"
        raise InvalidInputError(f"report of {variant.name}", expected, "an infinite one") from error
    return Judgement(undisturbed, robustness)


def read_judgement(
    repository: Repository,
    policy: PolicyManifest,
    variant: VariantManifest,
    report: EvaluationReport | None,
    max_draws: int | None = None,
) -> Judgement | None:
    """Compares a variant with the baseline in the repository; None if it was never played.

    If the baseline cannot be read or compared with, the judgement states the problem.
    """
    if report is None or report.played is None or not policy.proven_in_play:
        return None
    try:
        baseline = repository.variant(policy.name, policy.baseline_variant)
        full = repository.report_of(baseline)
        return judge(policy, variant, report, baseline, full, max_draws)
    except SlimqError as error:
        return Judgement(problem=str(error))


def describe_evidence(
    policy: PolicyManifest,
    variant: VariantManifest,
    report: EvaluationReport | None,
    judgement: Judgement | None,
) -> str:
    """Describes in a few sentences how well a variant plays, and under which conditions."""
    sentences = [_play(report)]
    if report is not None and report.fidelity is not None:
        share = f"{report.fidelity.agreement:.1%}"
        sentences.append(f"Same action as {report.baseline_variant} on {share} of states.")
    if report is not None and report.played is not None:
        sentences.append(_robustness(policy, variant, judgement))
    if is_stale(variant, policy):
        sentences.append("It was made from an earlier network of the policy.")
    return " ".join(sentences)


def _play(report: EvaluationReport | None) -> str:
    if report is None:
        return "No evidence: this variant has not been evaluated."
    played = report.played
    if played is None:
        return "Not proven in play: the policy has no environment."
    low, high = played.interval.low, played.interval.high
    return (
        f"Mean return {played.mean:.4g} (95 % interval {low:.4g} to {high:.4g}) over "
        f"{len(played.returns)} {played.protocol.seed_range} episodes."
    )


def _robustness(
    policy: PolicyManifest, variant: VariantManifest, judgement: Judgement | None
) -> str:
    """Describes whether a variant that was played is robust, and under which conditions."""
    baseline = policy.baseline_variant
    if judgement is None or judgement.robustness is None:
        reason = judgement and judgement.problem
        return f"Robustness unknown: {reason or 'not compared with the full policy'}."
    found = judgement.robustness
    if variant.name == baseline:
        return f"It is the full policy, with which others are compared{_played_under(found)}."
    if judgement.fails_under:
        return (
            f"Not robust: its loss relative to {baseline} may exceed the margin "
            f"{_under(judgement.fails_under)}."
        )
    passed = [r.condition for r in found.results if r.standard and r.non_inferior]
    held = f"non-inferior to {baseline} {_under([UNDISTURBED, *map(_label, passed)])}"
    if found.missing:
        rest = f"not compared over enough episodes under {_labels(found.missing)}"
        return f"Robustness unknown: {held}; {rest}."
    undecided = [r.condition for r in found.results if r.standard and not r.decides]
    if undecided:
        held += f"; undecided under {_labels(undecided)}, where {baseline} itself loses too much"
    return f"{'Robust' if found.robust else 'Robustness unknown'}: {held}."


def _played_under(found: Robustness) -> str:
    played = [result.condition for result in found.results]
    return f", also under {_labels(played)}" if played else ", undisturbed only"


def _under(places: Sequence[str]) -> str:
    """Joins places to a phrase such as `undisturbed and under noise=4, blur=1`."""
    conditions = ", ".join(place for place in places if place != UNDISTURBED)
    found = [UNDISTURBED] if UNDISTURBED in places else []
    return " and ".join([*found, *([f"under {conditions}"] if conditions else [])])


def _labels(conditions: Sequence[Condition]) -> str:
    return ", ".join(map(_label, conditions))


def _label(condition: Condition) -> str:
    return condition.label


def _draws(report: EvaluationReport, full: EvaluationReport) -> int:
    """The number of returns that the bootstraps of a comparison draw."""
    resamples = full.protocol.resamples if full.protocol is not None else 0
    episodes = len(report.returns or ()) + sum(len(found.returns) for found in report.conditions)
    return resamples * episodes
