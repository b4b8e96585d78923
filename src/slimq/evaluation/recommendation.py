"""Chooses the variant to deploy, from the reports alone.

A variant is eligible if its evidence is complete, it is non-inferior to the baseline at the margin,
undisturbed and under the standard conditions, and it meets every limit. Conditions count if the
baseline was played under all of them and any decides, unless the caller overrides this. The
eligible variant with the lowest cost (bytes, or the latency of one call) is chosen; ties go to the
higher return, then to the other cost. No eligible variant is then both cheaper and better than the
choice. A limit on something that was not measured is not met.

A policy without an environment has no returns. Its variants are eligible if their agreement with
the baseline on recorded states is at least a given share, and ties go to the higher agreement.

The choice uses held-out reports and tests each variant at the margin separately, so among very many
variants one may pass by luck. When choosing among dozens, evaluate the choice again on other
episodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from slimq.core.errors import CheckFailedError, InvalidInputError
from slimq.core.report import LatencyMode
from slimq.core.statistics import MARGIN
from slimq.evaluation.comparison import Comparison, ComparisonRow
from slimq.evaluation.evidence import (
    below_margin,
    condition_misses,
    conditions_are_known,
    missing_conditions,
    no_condition_decides,
    unknown_conditions,
    worst_result,
)

Goal = Literal["bytes", "latency"]


@dataclass(frozen=True)
class Criteria:
    """Requirements on a variant; None means no limit.

    Attributes:
        margin: share of full − random that the variant may lose undisturbed, at the lower bound.
        robust: whether it must pass under the standard conditions, too; None: only if the baseline
            was played under all of them.
        max_bytes: limit on the size on disk.
        max_latency_us: limit on the median time of one call.
        min_return: minimum mean return over the held-out episodes.
        min_agreement: minimum share of states with the baseline's action; required for a policy
            without an environment.
        mode: latency mode to use.
        batch: batch size to use.
        goal: the cost to minimize; None derives it from the limits, see `resolve_goal`.
    """

    margin: float = MARGIN
    max_bytes: int | None = None
    max_latency_us: float | None = None
    min_return: float | None = None
    min_agreement: float | None = None
    mode: LatencyMode = "alone"
    batch: int = 1
    goal: Goal | None = None
    robust: bool | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise InvalidInputError("margin", "a share from 0 to below 1", f"{self.margin:g}")
        if self.batch < 1:
            raise InvalidInputError("batch", "at least 1", str(self.batch))
        if self.min_return is not None and not math.isfinite(self.min_return):
            raise InvalidInputError("min_return", "a finite number", f"{self.min_return:g}")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            received = f"{self.min_agreement:g}"
            raise InvalidInputError("min_agreement", "a share from 0 to 1", received)


@dataclass(frozen=True)
class Candidate:
    """An eligible variant and its figures.

    Attributes:
        smaller: the baseline's size divided by its own.
        mean: mean return; None if the policy is not proven in play.
        low: lower bound of the paired difference, as a share of full − random; None as for `mean`.
        robust: whether it is robust; None if unknown.
        worst_condition: the standard condition with the lowest bound; None if none is known.
        worst_low: that bound, as a share of full − random; None if none is known.
        agreement: share of states with the baseline's action; None if it was not measured.
        latency_us: median latency for the criteria's mode and batch, in µs; None if not measured.
        faster: the baseline's latency divided by its own; None if measured in different runs.
        notes: remarks on its report.
    """

    variant: str
    bytes: int
    smaller: float | None
    mean: float | None
    low: float | None
    agreement: float | None
    latency_us: float | None
    faster: float | None
    notes: tuple[str, ...]
    robust: bool | None = None
    worst_condition: str | None = None
    worst_low: float | None = None


@dataclass(frozen=True)
class Rejection:
    """A variant that is not eligible.

    Attributes:
        reasons: one per criterion that it misses.
        excess: largest share by which it misses a criterion; None if evidence is missing.
    """

    variant: str
    reasons: tuple[str, ...]
    excess: float | None


@dataclass(frozen=True)
class Recommendation:
    """The choice, and the reasons against the other variants.

    Attributes:
        choice: the chosen variant; None if no variant is eligible.
        runners_up: the other eligible variants, best first.
        rejected: the variants that are not eligible.
        nearest: without a choice, the rejected variant that misses by the smallest share.
        evidence: the evidence in place of returns; None if the policy is proven in play.
        robust: whether robustness was required; False if no standard condition decides.
        unknown: note that only undisturbed play is known; None if more is.
    """

    policy: str
    goal: Goal
    criteria: Criteria
    choice: Candidate | None
    runners_up: tuple[Candidate, ...]
    rejected: tuple[Rejection, ...]
    nearest: Rejection | None
    evidence: str | None = None
    robust: bool = False
    unknown: str | None = None


def recommend(comparison: Comparison, criteria: Criteria) -> Recommendation:
    """Chooses among the variants of a comparison.

    Raises:
        CheckFailedError: the policy is not proven in play, and `min_agreement` is missing or
            robustness is required.
    """
    if not comparison.proven_in_play and (criteria.min_agreement is None or criteria.robust):
        asked = "robust" if criteria.robust else "non-inferior, even in undisturbed play"
        problem = f"has no environment, so no variant can be shown to be {asked}"
        remedy = "choose by agreement with --min-agreement"
        raise CheckFailedError(f"{comparison.policy} {problem}; {remedy}")
    goal = resolve_goal(criteria)
    robust = conditions_are_known(comparison) if criteria.robust is None else criteria.robust
    robust = robust and not no_condition_decides(comparison)
    eligible: list[Candidate] = []
    rejected = [Rejection(name, (why,), None) for name, why in comparison.failed.items()]
    scale = _return_scale(comparison)
    for row in comparison.rows:
        missing = [
            *missing_evidence(row, proven_in_play=comparison.proven_in_play),
            *_missing_agreement(row, criteria),
            *_missing_latency(row, criteria, goal),
        ]
        if criteria.min_return is not None and not comparison.proven_in_play:
            missing.append("no return was measured, as the policy has no environment")
        misses = list(_misses(row, criteria, scale))
        if robust and row.difference is not None:
            misses += condition_misses(row)
            absent = missing_conditions(row, comparison.policy)
            missing += [] if absent is None else [absent]
        reasons = (*missing, *(reason for reason, _ in misses))
        if missing or (comparison.proven_in_play and row.difference is None):
            rejected.append(Rejection(row.variant, reasons, None))
        elif misses:
            rejected.append(Rejection(row.variant, reasons, max(share for _, share in misses)))
        else:
            eligible.append(_candidate(row, criteria))
    eligible.sort(key=lambda candidate: _rank(candidate, goal))
    near = [rejection for rejection in rejected if rejection.excess is not None]
    return Recommendation(
        policy=comparison.policy,
        goal=goal,
        criteria=criteria,
        choice=eligible[0] if eligible else None,
        runners_up=tuple(eligible[1:]),
        rejected=tuple(rejected),
        nearest=None if eligible else min(near, key=lambda r: r.excess or 0.0, default=None),
        evidence=comparison.evidence,
        robust=robust,
        unknown=unknown_conditions(comparison),
    )


def resolve_goal(criteria: Criteria) -> Goal:
    """The cost to minimize: the requested one; latency if only bytes are limited; else bytes."""
    if criteria.goal is not None:
        return criteria.goal
    only_bytes = criteria.max_bytes is not None and criteria.max_latency_us is None
    return "latency" if only_bytes else "bytes"


def missing_evidence(row: ComparisonRow, *, proven_in_play: bool = True) -> list[str]:
    """Reasons why a variant's report is no evidence for its return; empty if it is.

    Args:
        row: the variant.
        proven_in_play: whether returns can be measured; otherwise agreement on recorded states is
            the evidence.
    """
    if not proven_in_play:
        return list(row.notes) if row.stale or row.fidelity is None else []
    if row.mean is not None and row.difference is None:
        return [*row.notes, "its returns cannot be paired with a report of the baseline"]
    return list(row.notes) if row.stale or row.mean is None else []


def margin_miss(row: ComparisonRow, margin: float) -> tuple[str, float] | None:
    """The distance below the margin undisturbed, in words and as a share; None if within it."""
    if row.difference is None or row.difference.low >= -margin:
        return None
    return below_margin("undisturbed", row.difference.low, margin)


def _missing_agreement(row: ComparisonRow, criteria: Criteria) -> Iterator[str]:
    if criteria.min_agreement is not None and row.fidelity is None and not row.notes:
        yield "its agreement was not measured"


def _missing_latency(row: ComparisonRow, criteria: Criteria, goal: Goal) -> Iterator[str]:
    if criteria.max_latency_us is None and goal != "latency":
        return
    latency = row.find_latency(criteria.mode, criteria.batch)
    if latency is None:
        yield f"no {criteria.mode} latency at batch {criteria.batch} was measured"
    elif goal == "latency" and latency.faster is None:
        yield "its latency is from another run than the baseline's, so it cannot be ranked"


def _misses(
    row: ComparisonRow, criteria: Criteria, scale: float | None
) -> Iterator[tuple[str, float]]:
    """Yields each criterion that a variant misses, in words, and the share by which it does."""
    if miss := margin_miss(row, criteria.margin):
        yield miss
    if criteria.max_bytes is not None and row.bytes > criteria.max_bytes:
        over = row.bytes - criteria.max_bytes
        share = over / max(criteria.max_bytes, 1)
        limit = f"{criteria.max_bytes:,} by {over:,} ({share:.1%})"
        yield f"{row.bytes:,} bytes exceeds {limit}", share
    latency = row.find_latency(criteria.mode, criteria.batch)
    limit_us = criteria.max_latency_us
    if limit_us is not None and latency is not None and latency.p50_us > limit_us:
        share = latency.p50_us / limit_us - 1
        limit = f"{limit_us:g} µs by {latency.p50_us - limit_us:.2f} µs ({share:.1%})"
        median = f"p50 {criteria.mode} at batch {criteria.batch}"
        yield f"{median}, {latency.p50_us:g} µs, exceeds {limit}", share
    if criteria.min_return is not None and row.mean is not None and row.mean < criteria.min_return:
        short = criteria.min_return - row.mean
        share = short / (scale or abs(criteria.min_return) or 1.0)
        yield f"mean return {row.mean:.2f} is {short:.2f} below {criteria.min_return:g}", share
    yield from _agreement_miss(row, criteria)


def _agreement_miss(row: ComparisonRow, criteria: Criteria) -> Iterator[tuple[str, float]]:
    least = criteria.min_agreement
    if least is None or row.fidelity is None or row.fidelity.agreement >= least:
        return
    short = least - row.fidelity.agreement
    yield f"agreement {row.fidelity.agreement:.2%} is {short:.2%} below {least:.2%}", short


def _return_scale(comparison: Comparison) -> float | None:
    full = next((row.mean for row in comparison.rows if row.variant == comparison.baseline), None)
    random = comparison.random_mean
    above = None if full is None or random is None else full - random
    return above if above is not None and above > 0 else None


def _candidate(row: ComparisonRow, criteria: Criteria) -> Candidate:
    latency = row.find_latency(criteria.mode, criteria.batch)
    worst = worst_result(row)
    return Candidate(
        variant=row.variant,
        bytes=row.bytes,
        smaller=row.smaller,
        mean=row.mean,
        low=row.difference.low if row.difference else None,
        agreement=row.fidelity.agreement if row.fidelity else None,
        latency_us=latency.p50_us if latency else None,
        faster=latency.faster if latency else None,
        notes=row.notes,
        robust=row.robustness.robust if row.robustness else None,
        worst_condition=worst.condition.label if worst else None,
        worst_low=worst.difference.low if worst and worst.difference else None,
    )


def _rank(candidate: Candidate, goal: Goal) -> tuple[float, float, float, str]:
    """Sort key, best first: the goal's cost, then the higher return, then the other cost.

    Without returns, the higher agreement takes their place.
    """
    latency = math.inf if candidate.latency_us is None else candidate.latency_us
    costs = (candidate.bytes, latency) if goal == "bytes" else (latency, candidate.bytes)
    quality = candidate.agreement if candidate.mean is None else candidate.mean
    return costs[0], -(quality or 0.0), costs[1], candidate.variant
