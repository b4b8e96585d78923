"""`slimq compress`: makes variants by recipes, checks them and publishes what is accepted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimq.cli.bars import progress_bar
from slimq.cli.extras import require
from slimq.cli.options import DEFAULT_POLICIES, RECIPES, JsonOption, PoliciesOption
from slimq.cli.outcomes import show_outcome, show_step
from slimq.core.errors import NotFoundError

if TYPE_CHECKING:
    from slimq_compression.compress import Outcome

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

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
    from slimq_compression.context import ignore
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
        on_outcome=ignore if as_json else show_outcome,
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


def _to_json(outcome: Outcome) -> dict[str, Any]:
    verdict = outcome.verdict
    return {
        "variant": outcome.variant,
        "status": outcome.status,
        "manifest": outcome.manifest and outcome.manifest.model_dump(mode="json"),
        "error": outcome.error and {"code": outcome.error.code, "detail": str(outcome.error)},
        "accept": None if verdict is None else dataclasses.asdict(verdict),
    }
