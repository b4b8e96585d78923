"""`slimq play`: plays real episodes with a service choosing the actions."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from slimq.cli.extras import require
from slimq.cli.options import DEFAULT_URL, ApiKeyOption, JsonOption, UrlOption

if TYPE_CHECKING:
    from tqdm import tqdm

    from slimq.environments.rollout import StepTrace

DRAW_SECONDS = 0.5
"""Time between updates of the bar within an episode."""

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def play(
    policy: Annotated[str, typer.Argument(help="Name of the policy.")],
    url: UrlOption = DEFAULT_URL,
    variant: Annotated[
        str | None, typer.Option(help="Variant that plays; the policy's default if omitted.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Number of episodes.")] = 2,
    seed_offset: Annotated[
        int, typer.Option(min=0, help="Offset of the first seed in the held-out range.")
    ] = 0,
    environments: Annotated[
        int, typer.Option(min=1, max=256, help="Number of episodes played in parallel.")
    ] = 16,
    epsilon: Annotated[
        float, typer.Option(min=0, max=1, help="Probability of a random action.")
    ] = 0.01,
    trust_environment: Annotated[
        bool,
        typer.Option(
            "--trust-environment",
            help="Run the local files and modules that the policy's environment names.",
        ),
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Write one JSON line per agent step to this file.")
    ] = None,
    api_key: ApiKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Play episodes over HTTP with the protocol and the seeds of `slimq evaluate`."""
    require("play", "gymnasium", "ale_py")
    from tqdm import tqdm

    from slimq.core.client import SlimqClient
    from slimq.core.environment import named_code
    from slimq.core.errors import InvalidInputError, ServiceError
    from slimq.core.manifest import require_environment
    from slimq.core.observation import Observations
    from slimq.core.qfunction import QValues
    from slimq.core.seeds import HELD_OUT
    from slimq.environments.rollout import play_episodes

    seeds = HELD_OUT.seeds(episodes, seed_offset)
    played = []
    with SlimqClient(url, api_key=api_key) as client, contextlib.ExitStack() as stack:
        manifest = client.policy(policy)
        environment = require_environment(manifest, "slimq play")
        # A service must not choose what code runs here.
        if not trust_environment and (code := named_code(environment)):
            expected = "the flag, for an environment that runs code on this machine"
            raise InvalidInputError("--trust-environment", expected, f"none for {code[0]}")
        chosen = variant or manifest.default_variant
        known = client.variants(policy)
        if chosen not in known:
            raise ServiceError(url, 404, f"no variant {chosen!r}; available: {', '.join(known)}")
        answered: set[str] = set()

        def ask(observations: Observations, /) -> QValues:
            result = client.act(policy, observations, chosen)
            answered.add(result.sha256)
            return result.q_values

        tracer = None
        if trace is not None:
            tracer = stack.enter_context(_tracing(trace, manifest.action_start))
        bar = stack.enter_context(
            tqdm(total=episodes, unit="episode", desc=f"{policy} {chosen}", dynamic_ncols=True)
        )
        progress = _Progress(bar)

        def on_step(step: StepTrace, /) -> None:
            if tracer is not None:
                tracer(step)
            progress(step)

        for episode in play_episodes(
            environment,
            ask,
            seeds,
            epsilon=epsilon,
            environments=min(environments, episodes),
            on_step=on_step,
        ):
            played.append(episode)
            bar.update()
            progress.mean = sum(e.return_ for e in played) / len(played)
            progress.draw()
    played.sort(key=lambda episode: episode.seed)
    mean = sum(episode.return_ for episode in played) / len(played)
    if as_json:
        document = {
            "policy": policy,
            "variant": chosen,
            "sha256": sorted(answered),
            "epsilon": epsilon,
            "mean": mean,
            "episodes": [
                {
                    "seed": episode.seed,
                    "return": episode.return_,
                    "length": episode.length,
                    "trajectory": episode.trajectory,
                    "terminated": episode.terminated,
                }
                for episode in played
            ],
        }
        typer.echo(json.dumps(document))
        return
    for episode in played:
        typer.echo(f"seed {episode.seed}  return {episode.return_:g}  length {episode.length}")
    typer.echo(f"mean return of {policy} {chosen} over {len(played)} episodes: {mean:g}")


class _Progress:
    """The bar's figures. The bar advances once per episode; the step count shows life in between.

    Attributes:
        steps: agent steps so far, over all episodes.
        mean: mean return of the finished episodes.
    """

    def __init__(self, bar: tqdm[Any]) -> None:
        self.steps = 0
        self.mean: float | None = None
        self._bar = bar
        self._drawn = 0.0

    def __call__(self, step: StepTrace, /) -> None:
        self.steps += len(step.seeds)
        if time.monotonic() - self._drawn >= DRAW_SECONDS:
            self.draw()

    def draw(self) -> None:
        """Shows the figures now."""
        self._drawn = time.monotonic()
        mean = {} if self.mean is None else {"mean": f"{self.mean:.2f}"}
        self._bar.set_postfix({"steps": self.steps, **mean})


class _Tracer:
    def __init__(self, stream: TextIO, action_start: int) -> None:
        self._stream, self._action_start = stream, action_start

    def __call__(self, step: StepTrace, /) -> None:
        for seed, index, action, row in zip(
            step.seeds, step.steps, step.actions, step.q_values, strict=True
        ):
            line = {
                "seed": int(seed),
                "step": int(index),
                "action": int(action) + self._action_start,
                "q_values": [float(value) for value in row],
            }
            self._stream.write(json.dumps(line) + "\n")


@contextlib.contextmanager
def _tracing(path: Path, action_start: int) -> Iterator[_Tracer]:
    from slimq.core.errors import InvalidInputError

    try:
        stream = path.open("w", encoding="utf-8")
    except OSError as error:
        received = f"{path} ({error.strerror})"
        raise InvalidInputError("--trace", "a writable file", received) from error
    with stream:
        yield _Tracer(stream, action_start)
