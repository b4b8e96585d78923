"""`slimq inspect`: a variant's operators, their run time, and the size of its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from slimq.cli.extras import require
from slimq.cli.options import DEFAULT_POLICIES, JsonOption, PoliciesOption
from slimq.cli.output import print_json

if TYPE_CHECKING:
    from slimq.evaluation.inspection import Inspection

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def inspect(
    policy: Annotated[str, typer.Argument(help="Name of the policy.")],
    variant: Annotated[str, typer.Option("--variant", help="Name of one of its variants.")],
    policies: PoliciesOption = DEFAULT_POLICIES,
    batch: Annotated[int, typer.Option("--batch", help="States per call.")] = 1,
    iterations: Annotated[
        int, typer.Option("--iterations", help="Number of timed calls, after a warm-up.")
    ] = 300,
    as_json: JsonOption = False,
) -> None:
    """Show a variant's operators before and after optimization, their times, and tensor sizes.

    The time of an operator includes a few microseconds of profiler overhead; the time of the whole
    call does not.
    """
    require("compress", "onnx", "onnxruntime")
    from slimq.core.repository import Repository
    from slimq.evaluation.inspection import inspect_variant

    found = inspect_variant(
        Repository(policies), policy, variant, batch=batch, iterations=iterations
    )
    if as_json:
        print_json(found)
    else:
        typer.echo("\n".join(describe(found)))


def describe(found: Inspection) -> list[str]:
    """Formats the inspection as three tables, each with a heading."""
    compressed = (
        f", {found.model_bytes:,} uncompressed" if found.model_bytes != found.stored_bytes else ""
    )
    return [
        f"{found.policy} {found.variant} {found.sha256[:12]}: "
        f"{found.stored_bytes:,} bytes on disk{compressed}",
        "",
        f"operators: {sum(found.before.values())} before, {sum(found.after.values())} after "
        "optimization",
        *_table(("operator", "before", "after"), _operator_rows(found)),
        "",
        f"time: {found.call_us:.1f} µs per call at batch {found.batch} (median of "
        f"{found.iterations} on {found.states} states), onnxruntime {found.onnxruntime} on "
        f"{found.processor}, one thread",
        *_table(
            ("node", "operator", "mean, µs", "share"),
            [
                (one.name, one.operator, f"{one.mean_us:.1f}", _percent(one.share))
                for one in found.operators
            ],
            names=2,
        ),
        "",
        f"bytes: {found.model_bytes:,}, {len(found.tensors)} tensors plus the graph",
        *_table(("tensor", "dtype", "shape", "bytes", "share"), _tensor_rows(found), names=3),
    ]


def _operator_rows(found: Inspection) -> list[tuple[str, ...]]:
    names = [*found.before, *(name for name in found.after if name not in found.before)]
    return [(name, str(found.before.get(name, 0)), str(found.after.get(name, 0))) for name in names]


def _tensor_rows(found: Inspection) -> list[tuple[str, ...]]:
    rows = [
        (
            tensor.name,
            tensor.dtype,
            "×".join(map(str, tensor.shape)) or "scalar",
            f"{tensor.bytes:,}",
            _percent(tensor.share),
        )
        for tensor in found.tensors
    ]
    share = found.graph_bytes / found.model_bytes
    return [*rows, ("(graph)", "", "", f"{found.graph_bytes:,}", _percent(share))]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> list[str]:
    from slimq.core.text_tables import text_table

    return [f"  {line}" for line in text_table([header, *rows], names).split("\n")]
