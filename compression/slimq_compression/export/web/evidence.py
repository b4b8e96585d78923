"""A variant's evidence for the page: its returns, undisturbed and under conditions."""

from __future__ import annotations

from dataclasses import dataclass

from slimq.core.repository import Repository
from slimq.core.robustness import ConditionResult
from slimq.evaluation.comparison import compare_variants
from slimq_compression.export.subject import Subject, evidence


@dataclass(frozen=True)
class PlayedUnder:
    """A variant under one condition.

    Attributes:
        label: the condition as on the command line, such as `noise=4`.
        effect: the effect of the condition, in words.
        mean: mean return.
        low: lower bound of the mean's 95 % interval.
        high: its upper bound.
        full_mean: the full policy's mean return under the same condition; None if it is unknown.
        verdict: `holds` if the variant is non-inferior, `loses` if not, `open` if undecided.
    """

    label: str
    effect: str
    mean: float
    low: float
    high: float
    full_mean: float | None
    verdict: str


@dataclass(frozen=True)
class WebEvidence:
    """The evidence of a variant.

    Attributes:
        text: the evidence in one or two sentences.
        baseline: name of the full policy's variant.
        mean: mean undisturbed return; None if it was not played.
        low: lower bound of the mean's 95 % interval.
        high: its upper bound.
        episodes: number of episodes.
        random_mean: mean return of random play.
        full_mean: mean return of the full policy.
        non_inferior: whether it is non-inferior to the full policy in undisturbed play.
        robust: whether it is so under all standard conditions, too; None if unknown.
        conditions: results by condition.
        missing: standard conditions without a comparison.
        notes: what is missing, and why.
    """

    text: str
    baseline: str
    mean: float | None
    low: float | None
    high: float | None
    episodes: int | None
    random_mean: float | None
    full_mean: float | None
    non_inferior: bool | None
    robust: bool | None
    conditions: tuple[PlayedUnder, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def web_evidence(repository: Repository, subject: Subject) -> WebEvidence:
    """Compares the variant with the full policy.

    Raises:
        RepositoryError: a manifest is invalid.
    """
    comparison = compare_variants(repository, subject.policy.name)
    row = next((r for r in comparison.rows if r.variant == subject.variant.name), None)
    full = next((r for r in comparison.rows if r.variant == comparison.baseline), None)
    interval = row.interval if row else None
    played = subject.report.played if subject.report else None
    known = row.robustness if row else None
    return WebEvidence(
        text=evidence(subject),
        baseline=comparison.baseline,
        mean=row.mean if row else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        episodes=len(played.returns) if played and row and row.mean is not None else None,
        random_mean=comparison.random_mean,
        full_mean=full.mean if full else None,
        non_inferior=row.difference.non_inferior if row and row.difference else None,
        robust=known.robust if known else None,
        conditions=tuple(map(_under, known.results)) if known else (),
        missing=tuple(condition.label for condition in known.missing) if known else (),
        notes=row.notes if row else (),
    )


def _under(found: ConditionResult) -> PlayedUnder:
    verdict = {True: "holds", False: "loses", None: "open"}[found.non_inferior]
    interval = found.interval
    return PlayedUnder(
        label=found.condition.label,
        effect=found.condition.effect,
        mean=found.mean,
        low=interval.low,
        high=interval.high,
        full_mean=found.full_mean,
        verdict=verdict,
    )
