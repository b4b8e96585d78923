"""Formats the outcome of a recipe and of its steps as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from slimq.core.errors import plain_number

if TYPE_CHECKING:
    from slimq.core.manifest import StepRecord
    from slimq_compression.accept import Verdict
    from slimq_compression.compress import Outcome


def show_outcome(outcome: Outcome) -> None:
    """Prints the outcome of a recipe as soon as it is known."""
    for line in describe(outcome):
        typer.echo(line)


def describe(outcome: Outcome) -> list[str]:
    """Formats an outcome as lines of text: a heading, a row per step, the gate's criteria."""
    manifest = outcome.manifest
    if manifest is None:
        return [f"{outcome.variant}: {outcome.status}, {outcome.error}"]
    heading = f"{manifest.policy}/{manifest.name}: {outcome.status}, {manifest.model.bytes:,} bytes"
    if manifest.recipe.teacher is not None:
        teacher = manifest.recipe.teacher
        heading += f", taught by {teacher.policy}"
        heading += f" ({teacher.share:.0%})" if teacher.share < 1 else ""
    lines = [heading]
    header = ("step", "bytes", "parameters", "non-zero", "MACs", "agreement", "regret", "seconds")
    lines.append("  " + _row(header))
    lines += ["  " + _row(_cells(step)) for step in manifest.recipe.steps]
    for criterion in outcome.verdict.criteria if outcome.verdict else ():
        limit = f"{criterion.relation} {plain_number(criterion.limit)}"
        limit += f", {criterion.basis}" if criterion.basis else ""
        judged = "passed" if criterion.holds else "failed"
        lines.append(f"  {judged}: {criterion.name} {plain_number(criterion.value)} ({limit})")
    for one in outcome.verdict.skipped if outcome.verdict else ():
        lost = f"the full policy itself loses {one.loss:.0%}"
        lines.append(f"  skipped: robust under {one.condition.label}: {lost}")
    if outcome.verdict is not None and outcome.verdict.returns:
        lines.append(f"  {_describe_play(outcome.verdict)}")
    return lines


def _describe_play(verdict: Verdict) -> str:
    """The two mean returns that the criteria of play come from."""
    returns, reference = verdict.returns, verdict.reference_returns
    differing = sum(a != b for a, b in zip(returns, reference, strict=True))
    own, full = (sum(values) / len(values) for values in (returns, reference))
    return (
        f"played undisturbed: mean return {own:.6g}, the full policy's {full:.6g}; "
        f"{differing} of {len(returns)} episodes differ"
    )


def show_step(step: StepRecord) -> None:
    """Prints a step's row to stderr as soon as the step is done."""
    typer.echo("  " + _row(_cells(step)), err=True)


def _cells(step: StepRecord) -> tuple[str, ...]:
    return (
        step.name,
        "-" if step.bytes is None else f"{step.bytes:,}",
        f"{step.parameters_count:,}",
        f"{step.nonzero_parameters:,}",
        f"{step.macs:,}",
        "-" if step.fidelity is None else f"{step.fidelity.agreement:.1%}",
        "-" if step.fidelity is None else f"{step.fidelity.regret:.5f}",
        f"{step.seconds:.1f}",
    )


def _row(cells: tuple[str, ...]) -> str:
    return f"{cells[0]:<16}" + "".join(f"{cell:>13}" for cell in cells[1:])
