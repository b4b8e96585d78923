"""`slimq compress`: makes variants from recipes, checks them and publishes those accepted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from slimq.cli.bars import progress_bar
from slimq.cli.extras import require
from slimq.cli.options import (
    DEFAULT_POLICIES,
    RECIPES,
    JsonOption,
    PoliciesOption,
)
from slimq.cli.outcomes import show_outcome, show_step
from slimq.core.threads import limit_threads, thread_limit
from slimq_compression.recipe_files import recipe_names, resolve_recipe, shipped_folder

if TYPE_CHECKING:
    from slimq_compression.compress import Outcome

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

DEFAULT_WORK = Path("runs/compress")


class ListingCommand(TyperCommand):
    """Ends its help with a list of the recipes."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help, with the recipes found in the working folder and in the package."""
        own = [
            f"{path.name}/ ({', '.join(names)})"
            for path in sorted(RECIPES.glob("*"))
            if path.is_dir() and (names := recipe_names(path))
        ]
        groups = {
            "For any policy": recipe_names(shipped_folder()),
            f"In {RECIPES}/": [*recipe_names(RECIPES), *own],
        }
        self.epilog = " ".join(f"{g}: {', '.join(names)}." for g, names in groups.items() if names)
        super().format_help(ctx, formatter)


@app.command(cls=ListingCommand)
def compress(
    policy: Annotated[str, typer.Argument(help="Name of the policy.")],
    recipe: Annotated[
        list[str],
        typer.Argument(
            help="Recipes: files, or names from recipes/POLICY/, from recipes/ or from the package."
        ),
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
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            help="Threads of torch and of Atari games; 0: all cores. By default OMP_NUM_THREADS, "
            "or else 1: more can be far slower next to a busy process.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make variants of a policy from recipes and publish those that pass their accept gate.

    The full variant, with which others are compared, is made first if it is missing or was made
    from another checkpoint. If a recipe is rejected or fails, the others still run; the command
    then fails at the end.
    After an interruption, the same command resumes after the last finished network step.
    """
    limit_threads((thread_limit() or 1) if threads is None else threads)
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


def _to_json(outcome: Outcome) -> dict[str, Any]:
    verdict = outcome.verdict
    return {
        "variant": outcome.variant,
        "status": outcome.status,
        "manifest": outcome.manifest and outcome.manifest.model_dump(mode="json"),
        "error": outcome.error and {"code": outcome.error.code, "detail": str(outcome.error)},
        "accept": None if verdict is None else dataclasses.asdict(verdict),
    }
