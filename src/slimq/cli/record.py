"""`slimq record`: a video of variants that play the same episode side by side."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimq.cli.bars import redraw_seconds
from slimq.cli.extras import require
from slimq.cli.options import DEFAULT_POLICIES, JsonOption, PoliciesOption
from slimq.cli.output import print_json

if TYPE_CHECKING:
    from slimq.recording.record import Recording

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

FIRST_SEED = 3_000_000
"""The first held-out seed, `slimq.core.seeds.HELD_OUT.start`; that module imports numpy."""


@app.command()
def record(
    policy: Annotated[str, typer.Argument(help="Name of the policy.")],
    output: Annotated[
        Path, typer.Option("--output", help="Video to write: .mp4 or .gif, as its name ends.")
    ],
    policies: PoliciesOption = DEFAULT_POLICIES,
    variants: Annotated[
        str,
        typer.Option(
            "--variants",
            help="Comma-separated names, from left to right; the full policy and the default "
            "variant if omitted.",
        ),
    ] = "",
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            help="Seed of the episode, as slimq play prints it; the first held-out one by default.",
        ),
    ] = FIRST_SEED,
    epsilon: Annotated[
        float, typer.Option("--epsilon", min=0, max=1, help="Probability of a random action.")
    ] = 0.01,
    condition: Annotated[
        str | None,
        typer.Option(
            "--condition", help="Disturbance to play under, such as noise=4; none by default."
        ),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", help="Agent steps after which the video ends.")
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option("--fps", help="Pictures per second; the environment's own by default."),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option("--width", help="Width of the video in pixels; 320 per variant by default."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Record one episode of each variant on the same seed, side by side, with their Q-values.

    The episodes are those of slimq evaluate and slimq play: the same protocol, seeds and random
    actions. Q-values are bars on one scale for the whole video. The greedy action's bar has the
    variant's colour, an arrowhead marks the action taken, and red marks where the greedy actions
    differ, each for the variant's own observation.
    """
    # Nothing is shown on this machine's screen, if it has one.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    require("play", "gymnasium", "ale_py")
    require("serve", "onnxruntime")
    require("video", "PIL", "av")
    from slimq.core.repository import Repository
    from slimq.recording.record import RecordingSettings, record

    settings = RecordingSettings(seed, epsilon, condition, max_steps, fps, width)
    names = [name.strip() for name in variants.split(",") if name.strip()]
    recording = record(Repository(policies), policy, names, output, settings, StepBar())
    if as_json:
        print_json(recording)
    else:
        typer.echo("\n".join(describe(recording)))


def describe(recording: Recording) -> list[str]:
    """Formats what was recorded, a line per variant and one for the file."""
    lines = []
    for variant, value in recording.returns.items():
        cut = "" if recording.terminated[variant] else ", cut or at its limit of steps"
        lines.append(f"{variant}: return {value:g}, {recording.lengths[variant]} steps{cut}")
    if len(recording.returns) > 1:
        steps = f"{recording.differing_steps} of {recording.steps} steps"
        lines.append(f"greedy actions differ at {steps}")
    size = f"{recording.width} × {recording.height} pixels, {recording.pictures} pictures"
    lines.append(f"wrote {recording.output}: {recording.bytes:,} bytes, {size}")
    return lines


class StepBar:
    """A bar of steps on stderr; implements `slimq.recording.record.Progress`."""

    def __init__(self) -> None:
        self._bar: Any = None

    def begin(self, task: str, total: int | None) -> None:
        """Starts a bar."""
        from tqdm import tqdm

        seconds = redraw_seconds()
        self._bar = tqdm(
            desc=task,
            total=total,
            unit="step",
            leave=False,
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=seconds,
            maxinterval=seconds,
        )

    def advance(self) -> None:
        """Counts a step."""
        self._bar.update()

    def end(self) -> None:
        """Removes the bar."""
        self._bar.close()
