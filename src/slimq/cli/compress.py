"""`slimq compress`: makes variants by recipes, checks them and publishes what is accepted."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimq.cli.evaluate import drawing_pause
from slimq.cli.extras import require
from slimq.cli.options import DEFAULT_POLICIES, JsonOption, PoliciesOption
from slimq.core.errors import NotFoundError

if TYPE_CHECKING:
    from slimq.core.manifest import StepRecord
    from slimq_compression.compress import Outcome

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

RECIPES = Path("recipes")
DEFAULT_WORK = Path("runs/compress")


@app.command()
def compress(
    policy: Annotated[str, typer.Argument(help="Name of the policy.")],
    recipe: Annotated[
        list[str], typer.Argument(help="Recipes: files, or names in recipes/POLICY/ or recipes/.")
    ],
    policies: PoliciesOption = DEFAULT_POLICIES,
    force: Annotated[
        bool, typer.Option("--force", help="Make again what is there already, from the first step.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Make and check everything, publish nothing.")
    ] = False,
    work: Annotated[
        Path, typer.Option("--work", help="Folder for finished steps of interrupted recipes.")
    ] = DEFAULT_WORK,
    device: Annotated[
        str, typer.Option("--device", help="Where networks are fine-tuned: cpu, cuda or auto.")
    ] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Make variants of a policy by recipes; each is published if it passes its accept gate.

    One that is refused or fails leaves the others to go on; the command fails at the end.
    Interrupted, the same command goes on after the last network step that was finished.
    """
    require("compress", "torch", "gymnasium", "ale_py", "onnx", "onnxruntime", "safetensors")
    from slimq.core.repository import Repository
    from slimq.networks.hardware import resolve_device
    from slimq_compression.compress import compress as run
    from slimq_compression.compress import pass_by
    from slimq_compression.recipe import load_recipe
    from slimq_compression.resume import StepStore

    loaded = [load_recipe(resolve_recipe(name, policy)) for name in recipe]
    outcomes = run(
        Repository(policies),
        policy,
        loaded,
        force=force,
        dry_run=dry_run,
        device=resolve_device(device),
        progress=progress_bar,
        on_step=show_step,
        on_outcome=pass_by if as_json else show_outcome,
        store=StepStore(work),
    )
    if as_json:
        typer.echo(json.dumps([_to_json(outcome) for outcome in outcomes], indent=2))
    for outcome in outcomes:
        outcome.require_accepted()


def resolve_recipe(name: str, policy: str, folder: Path = RECIPES) -> Path:
    """The file of a recipe given as a path, or as a name in `folder/<policy>` or `folder`.

    A recipe of a policy's own stands before one for all: layer widths depend on the network.

    Raises:
        NotFoundError: a name that the folders do not hold; lists those that they do.
    """
    if name.endswith(".toml") or "/" in name:
        return Path(name)
    folders = (folder / policy, folder)
    for path in (place / f"{name}.toml" for place in folders):
        if path.is_file():
            return path
    found = {path.stem for place in folders for path in place.glob("*.toml")}
    raise NotFoundError("recipe", name, found)


def show_outcome(outcome: Outcome) -> None:
    """Prints what became of a recipe as soon as it is known."""
    for line in describe(outcome):
        typer.echo(line)


def describe(outcome: Outcome) -> list[str]:
    """What became of a recipe, as lines of text: a heading, a row for each step, the gate."""
    manifest = outcome.manifest
    if manifest is None:
        return [f"{outcome.variant}: {outcome.status}, {outcome.error}"]
    lines = [f"{manifest.policy}/{manifest.name}: {outcome.status}, {manifest.model.bytes:,} bytes"]
    header = ("step", "bytes", "parameters", "non-zero", "MACs", "agreement", "regret", "seconds")
    lines.append("  " + _row(header))
    lines += ["  " + _row(_cells(step)) for step in manifest.recipe.steps]
    for criterion in outcome.verdict.criteria if outcome.verdict else ():
        limit = f"{criterion.relation} {criterion.limit:.6g}"
        judged = "accepted" if criterion.holds else "refused"
        lines.append(f"  {judged}: {criterion.name} {criterion.value:.6g} ({limit})")
    return lines


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


def _to_json(outcome: Outcome) -> dict[str, Any]:
    verdict = outcome.verdict
    return {
        "variant": outcome.variant,
        "status": outcome.status,
        "manifest": outcome.manifest and outcome.manifest.model_dump(mode="json"),
        "error": outcome.error and {"code": outcome.error.code, "detail": str(outcome.error)},
        "accept": None if verdict is None else dataclasses.asdict(verdict),
    }


def show_step(step: StepRecord) -> None:
    """Prints a step's row to stderr as soon as it is done."""
    typer.echo("  " + _row(_cells(step)), err=True)


def progress_bar(description: str, total: int, unit: str, /) -> Any:
    """A bar of tqdm on stderr, as `slimq_compression.context.Progress` wants it."""
    from tqdm import tqdm

    pause = drawing_pause()
    return tqdm(
        desc=description,
        total=total,
        unit=unit,
        leave=False,
        file=sys.stderr,
        dynamic_ncols=True,
        mininterval=pause,
        maxinterval=pause,
    )
