"""The evidence of a variant, for the page: its return, whether it is robust, under what."""

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
        label: as on the command line, such as `noise=4`.
        effect: what happens, in words.
        mean: return.
        low: of its 95 % interval.
        high: of its 95 % interval.
        full_mean: the full policy's return under the same condition.
        verdict: `holds`, `loses` or `open`, where nothing was decided.
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
        text: in one or two sentences.
        baseline: name of the full policy's variant.
        mean: return of undisturbed play; None if it was not played.
        low: of its 95 % interval.
        high: of its 95 % interval.
        episodes: number of episodes.
        random_mean: return of random play.
        full_mean: return of the full policy.
        non_inferior: against the full policy, undisturbed.
        robust: under all standard conditions, too; None if not known.
        conditions: those that it was played under.
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
