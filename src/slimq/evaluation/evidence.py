"""Describes how variants play under conditions, for tables, recommendations and errors."""

from __future__ import annotations

from collections.abc import Sequence

from slimq.core.conditions.catalogue import Condition
from slimq.core.robustness import (
    CONDITION_MARGIN,
    MAX_OWN_LOSS,
    MIN_EPISODES,
    ConditionResult,
    Robustness,
    is_decisive,
)
from slimq.evaluation.comparison import Comparison, ComparisonRow


def conditions_are_known(comparison: Comparison) -> bool:
    """Whether the baseline was played under all of its standard conditions."""
    known = _of_baseline(comparison)
    return known is not None and not known.missing


def no_condition_decides(comparison: Comparison) -> bool:
    """Whether the baseline itself loses too much under each of its standard conditions."""
    known = _of_baseline(comparison)
    return known is not None and not known.missing and not known.decided


def _of_baseline(comparison: Comparison) -> Robustness | None:
    full = next((row for row in comparison.rows if row.variant == comparison.baseline), None)
    return None if full is None else full.robustness


def any_condition_is_known(comparison: Comparison) -> bool:
    """Whether any variant can be compared with the full policy under any condition."""
    judged = (row.robustness for row in comparison.rows)
    return any(known is not None and known.results for known in judged)


def unknown_conditions(comparison: Comparison) -> str | None:
    """States that the full policy is known only in undisturbed play; None if more is known."""
    if no_condition_decides(comparison):
        loses = f"{comparison.baseline} itself loses more than {MAX_OWN_LOSS:.0%} under each"
        return (
            f"nothing is known beyond undisturbed play: no standard condition decides, as {loses}"
        )
    if not comparison.proven_in_play or conditions_are_known(comparison):
        return None
    command = f"run slimq evaluate {comparison.policy} --conditions"
    return f"nothing is known beyond undisturbed play: {command}"


def below_margin(under: str, low: float, margin: float) -> tuple[str, float]:
    """The distance of a lower bound below a margin, in words and as a share.

    Args:
        under: `undisturbed`, or the condition.
        low: lower bound of (variant − full) / (full − random).
        margin: the share that may be lost.
    """
    excess = -margin - low
    bound = f"{under}, the lower bound of {low:+.2%}"
    return f"{bound} is {excess:.2%} below the margin of {-margin:+.2%}", excess


def condition_misses(row: ComparisonRow) -> list[tuple[str, float]]:
    """The standard conditions under which a variant loses too much: in words, and the excess."""
    failed = () if row.robustness is None else row.robustness.failed
    return [
        below_margin(f"under {one.condition.label}", one.difference.low, one.difference.margin)
        for one in failed
        if one.difference is not None
    ]


def missing_conditions(row: ComparisonRow, policy: str) -> str | None:
    """Names the standard conditions without a comparison; None if there are none."""
    if row.robustness is None:
        return "it cannot be compared under conditions"
    missing = row.robustness.missing
    if not missing:
        return None
    return f"not compared under {labels(missing)}: run slimq evaluate {policy} --conditions"


def labels(conditions: Sequence[Condition]) -> str:
    """The labels of conditions, on one line."""
    return ", ".join(condition.label for condition in conditions)


def worst_result(row: ComparisonRow) -> ConditionResult | None:
    """The result with the lowest bound among deciding standard conditions; None without any."""
    results = () if row.robustness is None else row.robustness.results
    deciding = [r for r in results if r.standard and r.decides and r.difference is not None]
    return min(deciding, key=lambda r: r.difference.low if r.difference else 0.0, default=None)


def robustness_notes(comparison: Comparison) -> list[str]:
    """Notes for tables: failed conditions with their bounds, and what is unknown."""
    if not any_condition_is_known(comparison):
        unknown = unknown_conditions(comparison)
        return [] if unknown is None or comparison.protocol is None else [unknown]
    lines = [_margin_note(comparison)]
    for row in comparison.rows:
        known = row.robustness
        if known is None:
            continue
        failures = [_bounds(result) for result in known.failed]
        if failures:
            lines.append(f"{row.variant}: not robust: {'; '.join(failures)}")
        lines += [f"{row.variant}: {result.note}" for result in known.results if result.note]
        played = {result.condition for result in known.results}
        absent = [condition for condition in known.missing if condition not in played]
        command = f"run slimq evaluate {comparison.policy} --conditions"
        if absent:
            lines.append(f"{row.variant}: not played under {labels(absent)}: {command}")
        short = [r.condition for r in known.results if r.standard and not r.is_long and not r.note]
        if short:
            fewest = f"fewer than {MIN_EPISODES} episodes under {labels(short)} decide nothing"
            lines.append(f"{row.variant}: {fewest}: {command}")
    if no_condition_decides(comparison) and (unknown := unknown_conditions(comparison)):
        lines.append(unknown)
    return lines


def _margin_note(comparison: Comparison) -> str:
    """Explains the term robust, and lists the conditions that decide nothing."""
    note = (
        "robust: non-inferior undisturbed and under each standard condition, "
        f"with simultaneous lower bounds of at least {-CONDITION_MARGIN:+.0%}"
    )
    known = _of_baseline(comparison)
    lost = [
        r
        for r in (known.results if known else ())
        if r.standard and r.full_loss is not None and not is_decisive(r.full_loss)
    ]
    if lost:
        losses = ", ".join(f"{r.condition.label} ({r.full_loss:.0%})" for r in lost)
        note += f"; undecided under {losses}, where {comparison.baseline} itself loses more than "
        note += f"{MAX_OWN_LOSS:.0%}"
    return note


def _bounds(result: ConditionResult) -> str:
    difference = result.difference
    if difference is None:
        return f"under {result.condition.label}"
    bounds = f"{difference.low:+.1%} to {difference.high:+.1%}"
    undecided = ", which more episodes may decide" if difference.mean >= -difference.margin else ""
    return f"{difference.mean:+.1%} ({bounds}) under {result.condition.label}{undecided}"
