"""`slimq card`: a policy's page for a model hub, with its evidence, plots and replay."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimq.cli.extras import require
from slimq.cli.options import DEFAULT_POLICIES, JsonOption, PoliciesOption
from slimq.cli.output import print_json

if TYPE_CHECKING:
    from slimq.core.repository import Repository
    from slimq.recording.record import Recording

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def card(
    policy: Annotated[str, typer.Argument(help="Name of the policy.")],
    output: Annotated[
        Path,
        typer.Option("--output", help="Folder to create; it is written completely or not at all."),
    ],
    policies: PoliciesOption = DEFAULT_POLICIES,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay",
            help="Video to show, .mp4 or .gif; by default one is recorded if the environment "
            "renders here.",
        ),
    ] = None,
    no_replay: Annotated[bool, typer.Option("--no-replay", help="Show no video.")] = False,
    variants: Annotated[
        str,
        typer.Option(
            "--variants",
            help="Variants of the recorded video, comma-separated; the full policy and the "
            "smallest variant that keeps its return if omitted.",
        ),
    ] = "",
    max_steps: Annotated[
        int, typer.Option("--max-steps", help="Agent steps of the recorded video, at most.")
    ] = 1000,
    repo_id: Annotated[
        str | None,
        typer.Option("--repo-id", help="Where the policy will be on the hub, such as user/pong."),
    ] = None,
    license_: Annotated[
        str | None,
        typer.Option("--license", help="Identifier of the policy's licence, such as apache-2.0."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier card in this folder.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a policy's card: README.md with front matter, evidence, plots, replay and provenance.

    All figures come from the published reports. A policy without an environment is said to be not
    proven in play.
    """
    from slimq.core.errors import InvalidInputError
    from slimq.core.repository import Repository

    require("compress", "matplotlib")
    from slimq.core.staging import check_output, staged
    from slimq.sharing.card import CARD, CardSettings, check_card_settings, write_card
    from slimq.sharing.hub_names import check_repo_id

    if replay is not None and no_replay:
        raise InvalidInputError("--no-replay", "either --replay or --no-replay", "both")
    if repo_id is not None:
        check_repo_id(repo_id)
    settings = CardSettings(repo_id, license_, replay)
    check_card_settings(settings)
    check_output(output, CARD, replace=force)
    repository = Repository(policies)
    names = [name.strip() for name in variants.split(",") if name.strip()]
    with tempfile.TemporaryDirectory(prefix="slimq-card-") as scratch:
        if replay is None and not no_replay:
            recorded = record_replay(repository, policy, names, Path(scratch), max_steps)
            if recorded is not None:
                settings = CardSettings(repo_id, license_, recorded.output, caption(recorded))
        with staged(output.absolute(), CARD, replace=force) as folder:
            files = write_card(repository, policy, folder, settings)
    if as_json:
        print_json({"policy": policy, "output": str(output), "files": files})
        return
    for name in files:
        typer.echo(f"wrote {output / name}")


def record_replay(
    repository: Repository, policy: str, variants: list[str], folder: Path, max_steps: int
) -> Recording | None:
    """Records a video for a card; None, with the reason on stderr, where that is not possible."""
    from slimq.core.errors import EnvironmentFailure, InvalidInputError, MissingExtraError

    manifest = repository.policy(policy)
    if manifest.environment is None:
        return None
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        require("play", "gymnasium", "ale_py")
        require("serve", "onnxruntime")
        require("video", "PIL", "av")
        from slimq.cli.record import StepBar
        from slimq.recording.record import RecordingSettings, record

        names = variants or default_variants(repository, policy)
        settings = RecordingSettings(max_steps=max_steps)
        return record(repository, policy, names, folder / "replay.mp4", settings, StepBar())
    except (MissingExtraError, InvalidInputError, EnvironmentFailure) as error:
        # Wrong options and faults of play are errors; that nothing can be shown here is not.
        if isinstance(error, InvalidInputError) and error.field.startswith("--"):
            raise
        if isinstance(error, EnvironmentFailure) and error.place != "rendering":
            raise
        typer.echo(f"slimq: no replay: {error}", err=True)
        return None


def default_variants(repository: Repository, policy: str) -> list[str]:
    """The variants that a card's video shows: the full policy and the smallest that keeps up."""
    from slimq.evaluation.comparison import compare_variants
    from slimq.sharing.card import smallest_kept

    comparison = compare_variants(repository, policy)
    smallest = smallest_kept(comparison)
    return [comparison.baseline, *([] if smallest is None else [smallest.variant])]


def caption(recording: Recording) -> str:
    """What a video shows, in one line."""
    each = ", ".join(
        f"`{name}` {'reaches' if recording.terminated[name] else 'has'} {value:g}"
        f" in {recording.lengths[name]:,} steps"
        for name, value in recording.returns.items()
    )
    differ = (
        f" Greedy actions differ at {recording.differing_steps:,} of {recording.steps:,} steps."
    )
    both = differ if len(recording.returns) > 1 else ""
    return f"One episode of {recording.seeds} seed {recording.seed}: {each}.{both}"
