"""`slimq search`: finds recipes within limits, then trains and publishes the best of them."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimq.cli.bars import progress_bar, redraw_seconds
from slimq.cli.extras import require
from slimq.cli.options import (
    DEFAULT_POLICIES,
    RECIPES,
    JsonOption,
    MaxBytesOption,
    MaxLatencyOption,
    PoliciesOption,
    RobustOption,
)
from slimq.cli.outcomes import describe, show_step
from slimq.cli.units import parse_bytes, parse_duration
from slimq.core.errors import CheckFailedError
from slimq.core.threads import available_cores, limit_threads

if TYPE_CHECKING:
    from slimq_compression.search.run import Found, Snapshot
    from slimq_compression.search.study import SearchSettings
    from slimq_compression.search.winners import Winner

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

_TRIALS_HELP = "Total trials of the study, including those of earlier runs."
_COLUMNS = ("trial", "bytes", "µs", "ratio", "agreement", "score", "low", "lost under", "candidate")


@app.command()
def search(
    policy: Annotated[str, typer.Argument(help="Name of the policy.")],
    policies: PoliciesOption = DEFAULT_POLICIES,
    max_bytes: MaxBytesOption = "",
    max_latency: MaxLatencyOption = "",
    margin: Annotated[
        float,
        typer.Option(
            "--margin", help="Tolerated loss in undisturbed play, as a share of (full − random)."
        ),
    ] = 0.02,
    robust: RobustOption = True,
    trials: Annotated[int, typer.Option("--trials", help=_TRIALS_HELP)] = 100,
    minutes: Annotated[
        float,
        typer.Option("--minutes", help="Minutes for trials; trials in progress still finish."),
    ] = 60.0,
    workers: Annotated[int, typer.Option("--workers", help="Number of processes.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            help="Threads of each worker, 1 by default, and for training the best; 0: all cores, "
            "shared by the workers.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the sampler and the recipes.")] = 0,
    effort: Annotated[
        float, typer.Option("--effort", help="Share of the full training for each trial.")
    ] = 0.15,
    publish: Annotated[
        int, typer.Option("--publish", min=0, help="Number of variants to train and publish.")
    ] = 1,
    publish_effort: Annotated[
        float,
        typer.Option("--publish-effort", help="Share of the full training for those variants."),
    ] = 1.0,
    study: Annotated[
        str,
        typer.Option("--study", help="Name of the study; derived from limits and seed by default."),
    ] = "",
    work: Annotated[Path, typer.Option("--work", help="Folder of the studies.")] = Path(
        "runs/search"
    ),
    device: Annotated[
        str, typer.Option("--device", help="Device for training the best: cpu, cuda or auto.")
    ] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Search for recipes on the Pareto front of size, latency and return, and publish the best.

    Variants that play as well undisturbed also play under the standard conditions, and the largest
    loss counts; a variant is published only if it passes all of them.

    After an interruption, the same command resumes.
    """
    limit_threads(1 if threads is None else threads)
    require("compress", "torch", "gymnasium", "ale_py", "onnx", "onnxruntime", "optuna")
    from slimq.networks.hardware import resolve_device
    from slimq_compression.search.run import pareto_front
    from slimq_compression.search.run import search as run
    from slimq_compression.search.spending import describe_spending, spending
    from slimq_compression.search.study import SearchSettings
    from slimq_compression.search.winners import publish_winners

    settings = SearchSettings(
        policies=policies,
        policy=policy,
        max_bytes=parse_bytes(max_bytes, "--max-bytes") if max_bytes else None,
        max_latency_us=parse_duration(max_latency, "--max-latency") if max_latency else None,
        margin=margin,
        trials=trials,
        minutes=minutes,
        workers=workers,
        threads=_worker_threads(threads, workers),
        seed=seed,
        effort=effort,
        work=work,
        study=study or None,
        robust=robust,
    )
    bar = _TrialBar(settings)
    try:
        made = run(settings, on_trial=bar.show, progress=progress_bar)
    except KeyboardInterrupt:
        bar.close()
        typer.echo(f"slimq: stopped; the same command resumes {settings.folder}", err=True)
        raise
    finally:
        bar.close()
    limit_threads(threads)  # a single worker runs in this process, with its own limit
    found = pareto_front(made)
    typer.echo(f"slimq: {describe_spending(spending(made))}", err=True)
    if not as_json:
        typer.echo("\n".join(_table(found, settings)))
    winners = []
    for winner in publish_winners(
        settings,
        made,
        publish,
        RECIPES,
        effort=publish_effort,
        device=resolve_device(device),
        progress=progress_bar,
        on_step=show_step,
    ):
        winners.append(winner)
        if not as_json:
            typer.echo("\n".join(_describe_winner(winner)))
    if as_json:
        typer.echo(json.dumps(_to_json(settings, found, winners), indent=2))
    _conclude(policy, publish, winners)


def _worker_threads(threads: int | None, workers: int) -> int:
    if threads == 0:
        return max(1, available_cores() // max(1, workers))
    return threads or 1


def _conclude(policy: str, wanted: int, winners: list[Winner]) -> None:
    """Prints the next command to run.

    Raises:
        CheckFailedError: fewer variants were published than requested.
    """
    published = [w.outcome.variant for w in winners if w.outcome is not None]
    if published:
        names = ",".join(published)
        typer.echo(
            f"evaluate on held-out seeds: slimq evaluate {policy} --variants {names}", err=True
        )
    if len(published) < wanted:
        problem = f"{len(published)} of {wanted} variants published"
        tried = f"{len(winners)} trained in full"
        raise CheckFailedError(f"search: {problem}, {tried}; try more --trials or looser limits")


class _TrialBar:
    """Shows the number of trials and the best one so far."""

    def __init__(self, settings: SearchSettings) -> None:
        self._settings = settings
        self._bar: Any = None

    def show(self, now: Snapshot) -> None:
        """Updates the bar."""
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                desc=f"search {self._settings.policy}",
                total=self._settings.trials,
                initial=now.ended,
                unit="trial",
                file=sys.stderr,
                dynamic_ncols=True,
                mininterval=redraw_seconds(),
            )
        note = f"{now.complete} complete"
        if now.best is not None:
            passed = "passed" if now.best.passed(self._settings.margin) else "failed"
            figures = (
                f"{now.best.bytes:,} B, {now.best.latency_us:.0f} µs, score {now.best.score:.3f}"
            )
            note = f"{note}, best {figures} ({passed})"
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(now.ended - self._bar.n)

    def close(self) -> None:
        """Closes the bar and leaves it on the screen."""
        if self._bar is not None:
            self._bar.close()


def _table(found: list[Found], settings: SearchSettings) -> list[str]:
    """Formats the Pareto front, one line per trial."""
    lines = [f"{settings.policy}: {len(found)} trials on the Pareto front of {settings.folder}"]
    if found:
        lines.append("  " + _row(_COLUMNS))
    return lines + ["  " + _row(_cells(one)) for one in found]


def _cells(found: Found) -> tuple[str, ...]:
    return (
        str(found.number),
        f"{found.bytes:,}",
        f"{found.latency_us:.1f}",
        f"{found.latency_ratio:.2f}",
        f"{found.agreement:.3f}",
        f"{found.score:.3f}",
        "-" if found.low is None else f"{found.low:+.3f}",
        found.lost or "-",
        found.candidate,
    )


def _row(cells: tuple[str, ...]) -> str:
    return f"{cells[0]:>5}" + "".join(f"{cell:>12}" for cell in cells[1:-1]) + f"  {cells[-1]}"


def _describe_winner(winner: Winner) -> list[str]:
    if winner.outcome is None:
        return [f"{_name(winner)}, trained in full: {winner.refused}"]
    return [f"{_name(winner)}: {winner.recipe}", *describe(winner.outcome)]


def _name(winner: Winner) -> str:
    return f"trial {winner.found.number}, seed {winner.seed}"


def _to_json(
    settings: SearchSettings, found: list[Found], winners: list[Winner]
) -> dict[str, object]:
    return {
        "policy": settings.policy,
        "study": str(settings.folder),
        "front": [dataclasses.asdict(one) for one in found],
        "winners": [
            {
                "trial": winner.found.number,
                "seed": winner.seed,
                "recipe": None if winner.recipe is None else str(winner.recipe),
                "manifest": (
                    winner.outcome.manifest.model_dump(mode="json")
                    if winner.outcome and winner.outcome.manifest
                    else None
                ),
                "refused": winner.refused or None,
            }
            for winner in winners
        ],
    }
