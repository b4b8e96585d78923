"""`slimq compress`: makes variants from recipes, checks them and publishes those accepted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimq.cli.bars import progress_bar
from slimq.cli.extras import require
from slimq.cli.options import (
    DEFAULT_POLICIES,
    RECIPES,
    JsonOption,
    PoliciesOption,
    ThreadsOption,
)
from slimq.cli.outcomes import show_outcome, show_step
from slimq.core.errors import InvalidInputError, NotFoundError
from slimq.core.threads import limit_threads

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
        bool, typer.Option("--force", help="Rebuild existing variants, from the first step.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Make and check everything, but publish nothing.")
    ] = False,
    work: Annotated[
        Path, typer.Option("--work", help="Folder for the finished steps of interrupted recipes.")
    ] = DEFAULT_WORK,
    device: Annotated[
        str, typer.Option("--device", help="Device for fine-tuning: cpu, cuda or auto.")
    ] = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make variants of a policy from recipes and publish those that pass their accept gate.

    If a recipe is rejected or fails, the others still run; the command then fails at the end.
    After an interruption, the same command resumes after the last finished network step.
    """
    limit_threads(threads)
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
    """Resolves a recipe given as a path, or as a name in `folder/<policy>` or `folder`.

    A policy's own recipe takes precedence over a shared one: layer widths depend on the network.

    Raises:
        NotFoundError: no such recipe in the folders; lists those available.
        InvalidInputError: only other policies have a recipe of this name.
    """
    if name.endswith(".toml") or "/" in name:
        return Path(name)
    folders = (folder / policy, folder)
    for path in (place / f"{name}.toml" for place in folders):
        if path.is_file():
            return path
    found = {path.stem for place in folders for path in place.glob("*.toml")}
    if others := sorted(folder.glob(f"*/{name}.toml")):
        expected = f"a recipe for {policy} or for any policy ({', '.join(sorted(found))})"
        hint = f"; copy {others[0]} and fit it to the policy"
        raise InvalidInputError("recipe", expected, f"{name!r}, of other policies", hint)
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
