"""`slimq shrink`: finds, publishes and evaluates the smallest variant that plays as well."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimq.cli.bars import progress_bar, redraw_seconds
from slimq.cli.compare import render_notes, table
from slimq.cli.compare import to_json as comparison_to_json
from slimq.cli.evaluate import DEFAULT_WORK as EVALUATE_WORK
from slimq.cli.evaluate import ProgressBar
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
from slimq.cli.outcomes import describe as describe_outcome
from slimq.cli.outcomes import show_step
from slimq.cli.output import to_plain
from slimq.cli.recommend import describe as describe_recommendation
from slimq.cli.units import parse_bytes, parse_duration
from slimq.core.errors import CheckFailedError, InvalidInputError
from slimq.core.text_tables import text_table
from slimq.core.threads import available_cores, limit_threads

if TYPE_CHECKING:
    from slimq.core.manifest import PolicyManifest
    from slimq.core.repository import Repository
    from slimq.evaluation.comparison import Comparison
    from slimq.evaluation.recommendation import Recommendation
    from slimq_compression.search.run import Snapshot
    from slimq_compression.search.stages import Reference
    from slimq_compression.search.study import SearchSettings
    from slimq_compression.search.winners import Winner

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

MANY_TRIALS = 100_000
EPISODES = 100
"""Fewest held-out episodes; more where the gate needed more."""


@app.command()
def shrink(
    policy: Annotated[str, typer.Argument(help="Name of the policy.")],
    policies: PoliciesOption = DEFAULT_POLICIES,
    minutes: Annotated[
        float,
        typer.Option(
            "--minutes",
            help="Minutes for trying techniques, over all runs; the evaluation takes extra time.",
        ),
    ] = 20.0,
    max_loss: Annotated[
        float,
        typer.Option(
            "--max-loss",
            help="Tolerated loss as a share of (full − random); without an environment, tolerated "
            "share of states with another action.",
        ),
    ] = 0.02,
    robust: RobustOption = True,
    max_bytes: MaxBytesOption = "",
    max_latency: MaxLatencyOption = "",
    workers: Annotated[
        int,
        typer.Option(
            "--workers", min=0, help="Processes of one thread each; 0: one for every core."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the first training runs.")] = 0,
    episodes: Annotated[
        int,
        typer.Option(
            "--episodes",
            min=0,
            help="Held-out episodes of the evaluation; 0: 100, or more where returns vary.",
        ),
    ] = 0,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Folder for the Pareto plots.")
    ] = None,
    work: Annotated[Path, typer.Option("--work", help="Folder of the studies.")] = Path(
        "runs/shrink"
    ),
    as_json: JsonOption = False,
) -> None:
    """Find the smallest variant that plays as well, publish it with evidence, and recommend one.

    Techniques are tried in order of cost: post-training quantization first, then students that are
    trained, smaller and smaller while they keep the policy's return, undisturbed and under the
    standard conditions. No recipe is needed; those of the published variants are saved. After an
    interruption, the same command resumes.
    """
    limit_threads(1)
    require("compress", "torch", "gymnasium", "ale_py", "onnx", "onnxruntime", "optuna")
    from slimq.core.repository import Repository
    from slimq_compression.search.run import search as run
    from slimq_compression.search.shrink import Limits, explain_failure, explain_time
    from slimq_compression.search.spending import spending
    from slimq_compression.search.study import SearchSettings

    if not 0 <= max_loss < 1:
        raise InvalidInputError("--max-loss", "a share from 0 to below 1", f"{max_loss:g}")
    _check_episodes(Repository(policies), policy, episodes)
    limits = Limits(
        parse_bytes(max_bytes, "--max-bytes") if max_bytes else None,
        parse_duration(max_latency, "--max-latency") if max_latency else None,
    )
    settings = SearchSettings(
        policies=policies,
        policy=policy,
        max_bytes=limits.max_bytes,
        max_latency_us=limits.max_latency_us,
        margin=max_loss,
        trials=MANY_TRIALS,
        minutes=minutes,
        workers=workers or available_cores(),
        seed=seed,
        gate_episodes=None,
        work=work,
        plan="ladder",
        robust=robust,
    )
    bar = _TimeBar(settings)
    try:
        try:
            study = run(settings, on_trial=bar.show, progress=progress_bar)
        finally:
            bar.close()
        clock = _Clock(spending(study))
        winners = _publish(settings, study, limits, quiet=as_json)
        clock.note("making and judging variants")
        names = [w.outcome.variant for w in winners if w.outcome is not None]
        if note := explain_time(study):
            typer.echo(f"slimq: {note}", err=True)
        if not names:
            raise CheckFailedError(f"shrink: {explain_failure(study, max_loss, limits)}")
        repository = Repository(policies)
        _evaluate(repository, settings, study, names, episodes)
        clock.note("evaluating")
        typer.echo(f"slimq: time: {clock.describe()}", err=True)
    except KeyboardInterrupt:
        typer.echo(f"slimq: stopped; the same command resumes {settings.folder}", err=True)
        raise
    _conclude(repository, settings, limits, winners, clock, plot, as_json=as_json)


def _check_episodes(repository: Repository, policy: str, episodes: int) -> None:
    """Checks that no published report would have more episodes.

    Raises:
        InvalidInputError: one would.
    """
    known = _evaluated_episodes(repository, policy)
    if 0 < episodes < known:
        expected = f"at least {known}, as the variants of {policy} were evaluated over"
        raise InvalidInputError("--episodes", expected, str(episodes))


def _evaluated_episodes(repository: Repository, policy: str) -> int:
    """Held-out episodes of the full variant's report; 0 without one."""
    baseline = repository.policy(policy).baseline_variant
    if baseline not in repository.variants(policy):
        return 0
    report = repository.report(policy, baseline)
    return report.protocol.episodes if report and report.protocol else 0


def _publish(settings: SearchSettings, study: Any, limits: Any, *, quiet: bool) -> list[Winner]:
    from slimq.core.repository import Repository
    from slimq_compression.search.shrink import publish_smallest
    from slimq_compression.source import load_source

    source = load_source(Repository(settings.policies), settings.policy)
    winners = []
    for winner in publish_smallest(
        settings, study, source, limits, RECIPES, progress=progress_bar, on_step=show_step
    ):
        winners.append(winner)
        if not quiet:
            typer.echo("\n".join(_describe_winner(winner)))
    return winners


def _describe_winner(winner: Winner) -> list[str]:
    if winner.outcome is None:
        return [f"{winner.found.candidate}: {winner.refused}"]
    return [f"{winner.found.candidate}: {winner.recipe}", *describe_outcome(winner.outcome)]


def _evaluate(
    repository: Repository, settings: SearchSettings, study: Any, names: list[str], episodes: int
) -> None:
    """Evaluates the new variants and the full one on held-out seeds, disturbed ones too if asked.

    With more episodes than before, all that were evaluated are evaluated again: only the same
    episodes can be compared.
    """
    from slimq.evaluation.protocol import EvaluationSettings
    from slimq.evaluation.runner import evaluate_policy
    from slimq_compression.search.stages import Reference

    policy = settings.policy
    manifest = repository.policy(policy)
    reference = Reference.model_validate(study.user_attrs["reference"])
    gate = reference.final_episodes
    known = _evaluated_episodes(repository, policy)
    count = episodes or known or max(EPISODES, gate)
    chosen = {manifest.baseline_variant, *names}
    if known and count != known:
        chosen |= {name for name in repository.variants(policy) if repository.report(policy, name)}
    conditions = tuple(known.condition for known in reference.conditions)
    wanted = EvaluationSettings(
        episodes=count,
        work=EVALUATE_WORK,
        conditions=conditions,
        condition_episodes=_condition_episodes(repository, manifest, reference),
    )
    found = evaluate_policy(repository, policy, sorted(chosen), wanted, ProgressBar())
    for name, error in found.failed.items():
        typer.echo(f"slimq: {settings.policy}/{name}: {error}", err=True)
    if found.failed:
        raise CheckFailedError(f"could not evaluate {', '.join(sorted(found.failed))}")


def _condition_episodes(
    repository: Repository, manifest: PolicyManifest, reference: Reference
) -> int | None:
    """Held-out episodes under each condition: those of the full variant's report, or the gate's.

    A report's are taken only if they are enough to decide.
    """
    from slimq.core.robustness import MIN_EPISODES

    report = repository.report(manifest.name, manifest.baseline_variant)
    found = [report.under(known.condition) for known in reference.conditions] if report else []
    counts = {len(one.returns) if one else 0 for one in found}
    known = counts.pop() if len(counts) == 1 else 0
    decide = known if known >= MIN_EPISODES else 0
    return decide or reference.final_condition_episodes or None


def _conclude(
    repository: Repository,
    settings: SearchSettings,
    limits: Any,
    winners: list[Winner],
    clock: _Clock,
    plot: Path | None,
    *,
    as_json: bool,
) -> None:
    """Prints the table and the recommendation, and draws the plots."""
    from slimq.evaluation.comparison import compare_variants

    comparison = compare_variants(repository, settings.policy)
    found = _recommend(comparison, settings, limits)
    if as_json:
        values = _to_json(settings, comparison, found, winners) | {"seconds": clock.seconds}
        typer.echo(json.dumps(values, indent=2))
    else:
        typer.echo(text_table(table(comparison)))
        typer.echo(render_notes(comparison), nl=False)
        typer.echo("\n".join(["", *describe_recommendation(found)]))
    if plot is not None:
        from slimq.evaluation.plots import draw_plots

        for path in draw_plots(comparison, plot):
            typer.echo(f"wrote {path}", err=True)
    if found.choice is None or found.choice.variant == comparison.baseline:
        problem = "none of the smaller variants passes the evaluation"
        raise CheckFailedError(
            f"shrink: {problem}; continue with more --minutes, or another --seed"
        )


def _recommend(comparison: Comparison, settings: SearchSettings, limits: Any) -> Recommendation:
    from slimq.evaluation.recommendation import Criteria, recommend

    agreement = None if comparison.proven_in_play else 1.0 - settings.margin
    criteria = Criteria(
        margin=settings.margin,
        max_bytes=limits.max_bytes,
        max_latency_us=limits.max_latency_us,
        min_agreement=agreement,
        goal="bytes",
        robust=settings.robust and comparison.proven_in_play,
    )
    return recommend(comparison, criteria)


def _to_json(
    settings: SearchSettings,
    comparison: Comparison,
    found: Recommendation,
    winners: list[Winner],
) -> dict[str, object]:
    return {
        "policy": settings.policy,
        "study": str(settings.folder),
        "tried": [
            {
                "candidate": winner.found.candidate,
                "variant": winner.outcome.variant if winner.outcome else None,
                "recipe": None if winner.recipe is None else str(winner.recipe),
                "refused": winner.refused or None,
            }
            for winner in winners
        ],
        "comparison": comparison_to_json(comparison),
        "recommendation": to_plain(found),
    }


class _Clock:
    """Records where the time goes: that of the trials by purpose, then what comes after them."""

    def __init__(self, trials: dict[str, float]) -> None:
        self._trials, self._last = trials, time.monotonic()
        self._after: dict[str, float] = {}

    def note(self, purpose: str) -> None:
        """Adds the time since the last note."""
        now = time.monotonic()
        self._after[purpose] = now - self._last
        self._last = now

    @property
    def seconds(self) -> dict[str, dict[str, float]]:
        """Of the trials, over all workers, and of what came after them."""
        return {"trials": self._trials, "after": self._after}

    def describe(self) -> str:
        """The time on one line."""
        from slimq_compression.search.spending import describe_spending

        after = [f"{name} {value / 60:.1f} min" for name, value in self._after.items()]
        return "; ".join([f"trials {describe_spending(self._trials)}", *after])


class _TimeBar:
    """Shows the time, what is being tried, and the smallest that passed so far."""

    def __init__(self, settings: SearchSettings) -> None:
        self._settings, self._started = settings, time.monotonic()
        self._bar: Any = None

    def show(self, now: Snapshot) -> None:
        """Updates the bar."""
        from tqdm import tqdm

        if self._bar is None:
            self._started = time.monotonic()
            self._bar = tqdm(
                desc=f"shrink {self._settings.policy}",
                total=round(60 * self._settings.minutes),
                unit="s",
                file=sys.stderr,
                dynamic_ncols=True,
                mininterval=redraw_seconds(),
                bar_format="{desc}: {percentage:3.0f}%, {elapsed}{postfix}",
            )
        best = "nothing passed yet"
        if now.smallest is not None:
            best = f"best {now.smallest.candidate}, {now.smallest.bytes:,} B"
            best += f" (1/{now.full_bytes / now.smallest.bytes:.0f})"
        trying = f"trying {'; '.join(now.running)}" if now.running else "waiting"
        note = f"at most {self._settings.minutes:g} min, {now.ended} tried, {best}, {trying}"
        self._bar.set_postfix_str(note, refresh=False)
        elapsed = min(round(time.monotonic() - self._started), self._bar.total)
        self._bar.update(elapsed - self._bar.n)

    def close(self) -> None:
        """Closes the bar and leaves it on the screen."""
        if self._bar is not None:
            self._bar.close()
