"""`slimq evaluate`: plays and times a policy's variants, and compares them with the baseline."""

from __future__ import annotations

import json
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from slimq.cli.bars import redraw_seconds
from slimq.cli.options import DEFAULT_POLICIES, JsonOption, PoliciesOption, ThreadsOption
from slimq.core.errors import CheckFailedError, InvalidInputError
from slimq.core.threads import limit_threads

if TYPE_CHECKING:
    from slimq.environments.rollout import Episode
    from slimq.evaluation.runner import Evaluation

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

DEFAULT_WORK = Path("runs/evaluate")

_EPISODES_HELP = (
    "Episodes per variant. A published report with more episodes is replaced only with --force."
)

_CONDITIONS_HELP = (
    "Play under disturbances, too: 'standard' for the standard set, or a comma-separated list such "
    "as standard,blur=1,my_conditions.py:fog=0.5; docs/evidence.md lists them."
)
_CONDITION_EPISODES_HELP = (
    "Episodes under each condition; default --episodes. A condition with more episodes in the "
    "published report is played again only with --force."
)


class Seeds(StrEnum):
    """A range of episode seeds."""

    held_out = "held-out"
    selection = "selection"
    collection = "collection"


class _Command(TyperCommand):
    """Lets `--conditions` stand without a value, which typer cannot declare."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Inserts the standard set where no list follows `--conditions`."""
        filled: list[str] = []
        for argument, following in zip(args, [*args[1:], "--"], strict=True):
            filled.append(argument)
            if argument == "--conditions" and following.startswith("-"):
                filled.append("standard")
        return super().parse_args(ctx, filled)


@app.command(cls=_Command)
def evaluate(
    policy: Annotated[str, typer.Argument(help="Name of the policy.")],
    policies: PoliciesOption = DEFAULT_POLICIES,
    variants: Annotated[
        str, typer.Option("--variants", help="Comma-separated names; all by default.")
    ] = "",
    episodes: Annotated[int, typer.Option("--episodes", help=_EPISODES_HELP)] = 100,
    environments: Annotated[
        int, typer.Option("--environments", help="Number of episodes played in parallel.")
    ] = 16,
    conditions: Annotated[
        str | None, typer.Option("--conditions", metavar="[LIST]", help=_CONDITIONS_HELP)
    ] = None,
    condition_episodes: Annotated[
        int | None,
        typer.Option("--condition-episodes", help=_CONDITION_EPISODES_HELP),
    ] = None,
    seeds: Annotated[
        Seeds,
        typer.Option(
            "--seeds", help="Range of episode seeds; only held-out reports are published."
        ),
    ] = Seeds.held_out,
    work: Annotated[
        Path, typer.Option("--work", help="Folder for the episodes of unfinished evaluations.")
    ] = DEFAULT_WORK,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Evaluate again even if a report exists; an interrupted evaluation is resumed.",
        ),
    ] = False,
    no_latency: Annotated[
        bool, typer.Option("--no-latency", help="Do not measure latency; keep known figures.")
    ] = False,
    only_latency: Annotated[
        bool, typer.Option("--only-latency", help="Measure only latency.")
    ] = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate variants on the same held-out episodes and publish a report for each.

    A policy without an environment is not played: its variants are compared with the full policy
    on its recorded states, and stay unproven in play. After an interruption, the same command
    resumes with the next episode.
    """
    from slimq.cli.extras import require

    if no_latency and only_latency:
        raise InvalidInputError("--only-latency", "either --no-latency or --only-latency", "both")
    limit_threads(threads)
    require("play", "gymnasium", "ale_py")
    require("serve", "onnxruntime")
    from slimq.core.repository import Repository
    from slimq.core.seeds import COLLECTION, HELD_OUT, SELECTION
    from slimq.evaluation.conditions import parse_conditions
    from slimq.evaluation.protocol import EvaluationSettings
    from slimq.evaluation.runner import evaluate_policy

    repository = Repository(policies)
    if conditions is None and condition_episodes is not None:
        raise InvalidInputError("--condition-episodes", "--conditions in addition", "none")
    chosen = () if conditions is None else parse_conditions(conditions, repository.policy(policy))
    settings = EvaluationSettings(
        episodes=episodes,
        environments=environments,
        seed_range={r.name: r for r in (COLLECTION, HELD_OUT, SELECTION)}[seeds.value],
        work=work,
        force=force,
        latency="only" if only_latency else "skip" if no_latency else "measure",
        conditions=chosen,
        condition_episodes=condition_episodes,
    )
    names = [name.strip() for name in variants.split(",") if name.strip()]
    evaluation = evaluate_policy(repository, policy, names, settings, ProgressBar())
    if as_json:
        typer.echo(json.dumps(to_json(evaluation), indent=2))
    else:
        typer.echo(render_text(evaluation))
    for name, error in evaluation.failed.items():
        typer.echo(f"slimq: {policy}/{name}: {error}", err=True)
    if evaluation.failed:
        names = sorted(evaluation.failed)
        raise CheckFailedError(f"could not evaluate {', '.join(names)}; all others succeeded")


class ProgressBar:
    """Shows episodes played, their mean return, agent steps per second and the time left."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._returns: list[float] = []
        self._steps, self._started, self._drawn = 0, 0.0, 0.0

    def begin(self, task: str, total: int, episodes: list[Episode]) -> None:
        """Starts a new bar, counting the episodes that were already played."""
        from tqdm import tqdm

        self._returns = [episode.return_ for episode in episodes]
        self._steps, self._started = 0, time.monotonic()
        self._bar = tqdm(
            desc=task, total=total, initial=len(episodes), unit="episode", file=sys.stderr
        )
        self._draw()

    def steps(self, count: int) -> None:
        """Adds agent steps."""
        self._steps += count
        if time.monotonic() - self._drawn > redraw_seconds():
            self._draw()

    def episode(self, episode: Episode) -> None:
        """Adds a finished episode."""
        self._returns.append(episode.return_)
        self._bar.n += 1

    def end(self) -> None:
        """Closes the bar and leaves it on the screen."""
        self._draw()
        self._bar.close()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        elapsed = max(self._drawn - self._started, 1e-9)
        text = f"{self._steps / elapsed:,.0f} steps/s"
        if self._returns:
            text = f"mean {sum(self._returns) / len(self._returns):.2f}, {text}"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.refresh()


def to_json(evaluation: Evaluation) -> dict[str, object]:
    """The reports, and which were cached, kept or failed, as plain JSON values."""
    return {
        "policy": evaluation.policy,
        "reports": {n: r.model_dump(mode="json") for n, r in evaluation.reports.items()},
        "cached": evaluation.cached,
        "kept": evaluation.kept,
        "failed": {
            name: {"code": error.code, "detail": str(error)}
            for name, error in evaluation.failed.items()
        },
    }


def render_text(evaluation: Evaluation) -> str:
    """One line per variant; `slimq compare` shows more."""
    lines: list[str] = []
    for name, report in evaluation.reports.items():
        fidelity, played = report.fidelity, report.played
        agreement = f"{fidelity.agreement:.1%}" if fidelity else "unknown"
        known = " (already evaluated)" if name in evaluation.cached else ""
        if episodes := evaluation.kept.get(name):
            known = f" (not published: use --force to replace the report of {episodes} episodes)"
        figures = f"agreement {agreement}"
        if played is not None:
            low, high = played.interval.low, played.interval.high
            distinct = f"{played.distinct_trajectories} of {len(played.seeds)} episodes distinct"
            mean = f"mean {played.mean:.2f} ({low:.2f} to {high:.2f}), IQM {played.iqm:.2f}"
            figures = f"{mean}, {figures}, {distinct}"
        elif fidelity is not None:
            figures += f", regret {fidelity.regret:.4g} on {fidelity.states:,} recorded states"
            figures += ", not proven in play"
        lines.append(f"{name}: {figures}, {report.bytes:,} bytes{known}")
        for found in report.conditions:
            low, high = found.interval.low, found.interval.high
            figures = f"mean {found.mean:.2f} ({low:.2f} to {high:.2f})"
            lines.append(f"  {found.condition.label}: {figures}, {len(found.returns)} episodes")
    return "\n".join(lines) if lines else "nothing was evaluated"
