"""The evidence of a card: its tables and what they say, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from slimq.core.robustness import ConditionResult
from slimq.core.text_tables import markdown_table
from slimq.evaluation.comparison import Comparison, ComparisonRow
from slimq.evaluation.evidence import robustness_notes

MISSING = "–"
PLAYED = (
    "variant",
    "bytes",
    "× smaller",
    "mean return",
    "95 % interval",
    "non-inferior undisturbed",
    "robust",
    "same action",
    "µs per call",
)
RECORDED = ("variant", "bytes", "× smaller", "same action", "regret", "µs per call")
"""Columns for a policy without an environment, which has no returns."""
UNPROVEN = (
    "**Not proven in play**: this policy came without an environment, so none of its variants has "
    "played. What is known is how often they choose the full policy's action on recorded states, "
    "and what is lost where they do not."
)


def variant_table(comparison: Comparison) -> str:
    """One row per variant: the full policy first, then from large to small."""
    if comparison.proven_in_play:
        return markdown_table([PLAYED, *map(_played_row, comparison.rows)])
    return markdown_table([RECORDED, *map(_recorded_row, comparison.rows)])


def condition_table(comparison: Comparison) -> str | None:
    """Variants against conditions, with mean returns; None if none was played under any."""
    rows = [row for row in comparison.rows if row.robustness and row.robustness.results]
    labels = list(dict.fromkeys(found.condition.label for row in rows for found in _results(row)))
    if not labels:
        return None
    lines: list[Sequence[str]] = [("variant", "undisturbed", *labels)]
    for row in rows:
        found = {one.condition.label: one for one in _results(row)}
        cells = [_condition_cell(found.get(label)) for label in labels]
        lines.append((f"`{row.variant}`", _number(row.mean, "{:.2f}"), *cells))
    return markdown_table(lines)


def evidence_notes(comparison: Comparison) -> list[str]:
    """What the tables rest on, and what is missing, one sentence each."""
    notes: list[str] = []
    protocol = comparison.protocol
    if comparison.evidence is not None:
        notes.append(comparison.evidence)
    if protocol is not None:
        zero = comparison.random_mean
        random = "" if zero is None else f"; the mean return of random play is {zero:.2f}"
        notes.append(
            f"return: {protocol.episodes} {protocol.seed_range} episodes in "
            f"{protocol.environment.id} from seed {protocol.first_seed}, acting randomly with "
            f"probability {protocol.epsilon:g}{random}"
        )
    if comparison.processor:
        notes.append(
            f"µs per call: median for one observation on {comparison.processor}, one thread"
        )
    notes += [f"{row.variant}: {note}" for row in comparison.rows for note in row.notes]
    notes += robustness_notes(comparison)
    notes = _joined(notes, [row.variant for row in comparison.rows])
    notes += [f"{name}: cannot be read: {problem}" for name, problem in comparison.failed.items()]
    return notes


def _joined(notes: list[str], variants: list[str]) -> list[str]:
    """Notes that say the same of several variants as one, at the place of the first."""
    subjects: dict[str, list[str]] = {}
    for note in notes:
        subject, colon, said = note.partition(": ")
        if colon and subject in variants:
            subjects.setdefault(said, []).append(f"`{subject}`")
        else:
            subjects[note] = []
    return [f"{', '.join(names)}: {said}" if names else said for said, names in subjects.items()]


def _played_row(row: ComparisonRow) -> Sequence[str]:
    interval, fidelity = row.interval, row.fidelity
    return (
        f"`{row.variant}`",
        f"{row.bytes:,}",
        _number(row.smaller, "{:.1f}"),
        _number(row.mean, "{:.2f}"),
        f"{interval.low:.2f} to {interval.high:.2f}" if interval else MISSING,
        _yes_or_no(row.difference.non_inferior if row.difference else None),
        _yes_or_no(row.robustness.robust if row.robustness else None),
        _number(fidelity.agreement if fidelity else None, "{:.1%}"),
        _latency(row),
    )


def _recorded_row(row: ComparisonRow) -> Sequence[str]:
    fidelity = row.fidelity
    return (
        f"`{row.variant}`",
        f"{row.bytes:,}",
        _number(row.smaller, "{:.1f}"),
        _number(fidelity.agreement if fidelity else None, "{:.1%}"),
        _number(fidelity.regret if fidelity else None, "{:.4g}"),
        _latency(row),
    )


def _latency(row: ComparisonRow) -> str:
    latency = row.find_latency("alone", 1)
    return _number(latency.p50_us if latency else None, "{:.1f}")


def _results(row: ComparisonRow) -> Sequence[ConditionResult]:
    return row.robustness.results if row.robustness else ()


def _condition_cell(result: ConditionResult | None) -> str:
    if result is None:
        return MISSING
    failed = result.decides and result.non_inferior is False
    return f"{result.mean:.2f}{' (fails)' if failed else ''}"


def _yes_or_no(value: bool | None) -> str:
    return MISSING if value is None else "yes" if value else "no"


def _number(value: float | None, form: str) -> str:
    return MISSING if value is None else form.format(value)
