"""`slimq compare`: the variants of a policy side by side, and their Pareto plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimq.cli.options import DEFAULT_POLICIES, JsonOption, PoliciesOption
from slimq.cli.output import print_json, to_plain

if TYPE_CHECKING:
    from slimq.core.robustness import ConditionResult
    from slimq.evaluation.comparison import Comparison, ComparisonRow

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

COLUMNS = (
    "variant",
    "bytes",
    "× smaller",
    "mean",
    "IQM",
    "95 % interval",
    "paired, low",
    "non-inferior undisturbed",
    "robust",
    "agreement",
    "p50 alone, µs",
    "× faster",
    "p50 interleaved, µs",
    "× faster",
    "parameters",
    "MACs",
)
UNPROVEN_COLUMNS = (*COLUMNS[:3], "agreement", "regret", *COLUMNS[10:])
"""Columns for a policy without an environment, which has no returns."""
CONDITION_COLUMNS = (
    "variant",
    "condition",
    "mean",
    "95 % interval",
    "paired, low",
    "decides",
    "non-inferior under it",
    "full loses",
    "episodes",
)
"""Columns of the table by condition."""
_MISSING = "–"


@app.command()
def compare(
    policy: Annotated[str, typer.Argument(help="Name of the policy.")],
    policies: PoliciesOption = DEFAULT_POLICIES,
    as_json: JsonOption = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table as Markdown.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Folder for the Pareto plots and the training curve."),
    ] = None,
    conditions: Annotated[
        bool,
        typer.Option("--conditions", help="Print a second table: each variant by condition."),
    ] = False,
) -> None:
    """Compare a policy's variants: size, return, loss, robustness, agreement and latency.

    Latency is at batch 1. "paired, low" is the lower bound of the 95 % interval of
    (variant − full) / (full − random); a variant is non-inferior undisturbed if it is at least
    −2 %. It is robust if it is also at least −5 % under each standard condition that slimq evaluate
    --conditions plays, at bounds that hold for all of these at once. A policy without an
    environment is not proven in play: it has agreement and regret on its recorded states instead.
    Exits with 1 if a variant cannot be read.
    """
    from slimq.cli.extras import require
    from slimq.core.errors import CheckFailedError, InvalidInputError

    if as_json and markdown:
        raise InvalidInputError("--markdown", "either --json or --markdown", "both")
    if plot:
        require("compress", "matplotlib")
    from slimq.core.repository import Repository
    from slimq.core.text_tables import markdown_table, text_table
    from slimq.evaluation.comparison import compare_variants

    repository = Repository(policies)
    comparison = compare_variants(repository, policy)
    if as_json:
        print_json(to_json(comparison))
    else:
        lines = table(comparison)
        typer.echo(markdown_table(lines) if markdown else text_table(lines))
        if conditions:
            lines = condition_table(comparison)
            typer.echo("")
            typer.echo(markdown_table(lines, 2) if markdown else text_table(lines, 2))
        typer.echo(render_notes(comparison), nl=False)
    if not comparison.rows and not comparison.failed:
        hint = f"run slimq shrink {policy}, or slimq compress {policy} RECIPE"
        typer.echo(f"slimq: {policy} has no variants yet; {hint}", err=True)
    for name, problem in comparison.failed.items():
        typer.echo(f"slimq: {policy}/{name}: {problem}", err=True)
    if plot:
        from slimq.evaluation.plots import draw_plots, draw_training

        for path in [
            *draw_plots(comparison, plot),
            *draw_training(repository.policy(policy), plot),
        ]:
            typer.echo(f"wrote {path}", err=True)
    if comparison.failed:
        raise CheckFailedError(f"{policy}: cannot be read: {', '.join(comparison.failed)}")


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain JSON values."""
    values: dict[str, Any] = to_plain(comparison)
    for row, plain in zip(comparison.rows, values["rows"], strict=True):
        if row.difference:
            plain["difference"]["non_inferior"] = row.difference.non_inferior
        results = row.robustness.results if row.robustness else ()
        for result, one in zip(
            results, (plain["robustness"] or {}).get("results", ()), strict=True
        ):
            one |= {"decides": result.decides, "non_inferior": result.non_inferior}
    return values


def table(comparison: Comparison) -> list[Sequence[str]]:
    """The heading and a row for each variant; without returns if nothing was played."""
    if comparison.proven_in_play:
        return [COLUMNS, *(table_row(row) for row in comparison.rows)]
    return [UNPROVEN_COLUMNS, *(_unproven_row(row) for row in comparison.rows)]


def _unproven_row(row: ComparisonRow) -> list[str]:
    cells, fidelity = table_row(row), row.fidelity
    regret = _number(fidelity.regret if fidelity else None, "{:.4g}")
    return [*cells[:3], cells[9], regret, *cells[10:]]


def condition_table(comparison: Comparison) -> list[Sequence[str]]:
    """The heading and a row for each variant and condition that it was played under."""
    return [
        CONDITION_COLUMNS,
        *(
            _condition_row(row.variant, result)
            for row in comparison.rows
            if row.robustness is not None
            for result in row.robustness.results
        ),
    ]


def _condition_row(variant: str, result: ConditionResult) -> list[str]:
    difference = result.difference
    return [
        variant,
        result.condition.label,
        f"{result.mean:.2f}",
        f"{result.interval.low:.2f} to {result.interval.high:.2f}",
        _number(difference.low if difference else None, "{:+.1%}"),
        _yes_or_no(result.standard and result.decides),
        _yes_or_no(result.non_inferior),
        _number(result.full_loss, "{:.1%}"),
        f"{result.episodes:,}",
    ]


def table_row(row: ComparisonRow) -> list[str]:
    """The cells of a variant's row, in the order of `COLUMNS`."""
    difference, fidelity, interval = row.difference, row.fidelity, row.interval
    cells = [
        row.variant,
        f"{row.bytes:,}",
        _number(row.smaller, "{:.2f}"),
        _number(row.mean, "{:.2f}"),
        _number(row.iqm, "{:.2f}"),
        f"{interval.low:.2f} to {interval.high:.2f}" if interval else _MISSING,
        _number(difference.low if difference else None, "{:+.1%}"),
        _yes_or_no(difference.non_inferior if difference else None),
        _yes_or_no(row.robustness.robust if row.robustness else None),
        _number(fidelity.agreement if fidelity else None, "{:.1%}"),
    ]
    for mode in ("alone", "interleaved"):
        latency = row.find_latency(mode, 1)
        cells.append(_number(latency.p50_us if latency else None, "{:.1f}"))
        cells.append(_number(latency.faster if latency else None, "{:.2f}"))
    return [*cells, f"{row.parameters:,}", f"{row.macs:,}"]


def render_notes(comparison: Comparison) -> str:
    """Notes on how the figures were measured and what is missing; may be empty."""
    from slimq.evaluation.evidence import robustness_notes

    lines: list[str] = []
    if comparison.evidence is not None:
        lines.append(comparison.evidence)
    protocol = comparison.protocol
    if protocol:
        steps = protocol.environment.max_episode_steps
        limit = "" if steps is None else f", at most {steps:,} agent steps"
        random = comparison.random_mean
        lines.append(
            f"{protocol.environment.id}: {protocol.episodes} {protocol.seed_range} episodes, "
            f"ε {protocol.epsilon:g}{limit}"
            + ("" if random is None else f"; a random policy's mean return is {random:.2f}")
        )
    if comparison.processor:
        lines.append(f"latency on {comparison.processor}, one thread, batch 1")
    lines += [f"{row.variant}: {note}" for row in comparison.rows for note in row.notes]
    lines += robustness_notes(comparison)
    return "".join(f"{line}\n" for line in ["", *lines]) if lines else ""


def _yes_or_no(value: bool | None) -> str:
    return _MISSING if value is None else "yes" if value else "no"


def _number(value: float | None, form: str) -> str:
    return _MISSING if value is None else form.format(value)
