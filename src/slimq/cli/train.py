"""`slimq train`: trains a policy from a configuration and publishes it in the repository."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimq.cli.extras import require
from slimq.cli.options import DEFAULT_POLICIES, JsonOption, PoliciesOption
from slimq.core.errors import (
    CheckFailedError,
    ConfigError,
    EnvironmentFailure,
    InvalidInputError,
    SlimqError,
)
from slimq.core.threads import limit_threads

if TYPE_CHECKING:
    from slimq.core.manifest import PolicyManifest
    from slimq_trainer.config import TrainConfig
    from slimq_trainer.learner import Learner
    from slimq_trainer.run import Run
    from slimq_trainer.start import Start

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

RANDOM_EPISODES = 100


@app.command()
def train(
    config_file: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="TOML file, such as configs/cartpole.toml.")
    ],
    policies: PoliciesOption = DEFAULT_POLICIES,
    run_folder: Annotated[
        Path | None,
        typer.Option("--run", help="Folder for checkpoints and logs; default runs/POLICY."),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="CHECKPOINT",
            help="Continue from earlier training: a run folder, a .safetensors network, or a "
            "policy of the repository (its folder or policy.json).",
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Start over even if a checkpoint exists; with --from, take only the weights.",
        ),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an existing policy of the same name.")
    ] = False,
    publish: Annotated[
        bool, typer.Option(help="Publish the trained policy in the repository.")
    ] = True,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            help="Threads of torch and of Atari games, 1 unless run.threads says otherwise; 0: all "
            "cores, for idle machines only.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a DQN policy and publish it.

    After an interruption, the same command resumes. Ctrl-C saves a checkpoint first.

    --from RUN continues from the whole state of an earlier run, say for more steps or with another
    learning rate, if the replay buffer fits the new configuration. Otherwise, and from a network or
    a policy, it takes the weights and begins at step 0. The policy records its origin.
    """
    require("train", "torch", "gymnasium", "safetensors", "tensorboard")
    from slimq.networks.hardware import resolve_device
    from slimq_trainer.config import load_config
    from slimq_trainer.dqn import train as train_policy
    from slimq_trainer.fitting import network_spec
    from slimq_trainer.run import Run
    from slimq_trainer.start import require_same_network

    config = load_config(config_file)
    limit_threads(threads if threads is not None else config.run.threads or None)
    if threads is not None:
        config = config.model_copy(
            update={"run": config.run.model_copy(update={"threads": threads})}
        )
    with _config_errors(config_file):
        spec = network_spec(config)
    with _config_errors(config_file, "run."):
        resolve_device(config.run.device)
    folder = run_folder or Path("runs") / config.policy
    if publish and not replace:
        _check_free(policies, config.policy)
    start = None if start_from is None else _find_start(start_from, folder, fresh=fresh)
    if start is not None:
        with _config_errors(config_file):
            require_same_network(start, spec)
    checked = _config_errors(config_file)
    with Run(folder, config, start=start) as run, checked, _name_checkpoint(folder):
        if fresh:
            run.clear()
        learner = train_policy(config, run)
    if not run.complete(learner):
        raise CheckFailedError(
            f"stopped at agent step {learner.step:,} of {config.algorithm.steps:,}; "
            "run the same command to resume"
        )
    summary = {
        "policy": config.policy,
        "steps": learner.step,
        "updates": learner.updates,
        "seconds": round(run.seconds, 1),
        "best_step": run.best[0] if run.best else None,
        "best_return": run.best[1] if run.best else None,
        "network": str(run.best_network),
    }
    if publish:
        earlier = _find_default(policies, config.policy)
        manifest = publish_policy(config, run, learner, policies)
        if manifest.random_policy is not None:
            summary["random_return"] = manifest.random_policy.mean
        summary["default_variant"] = manifest.default_variant
        summary["published"] = str(policies / config.policy)
        _advise(config, summary, policies)
        if earlier not in (None, manifest.default_variant):
            typer.echo(
                f"slimq: {config.policy}: the default is {manifest.default_variant} again, because "
                f"{earlier} was made from the previous network; compress and evaluate it again, "
                f"then run slimq promote {config.policy} {earlier}",
                err=True,
            )
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        for key, value in summary.items():
            typer.echo(f"{key}: {value}")


def _advise(config: TrainConfig, summary: dict[str, object], policies: Path) -> None:
    """Says on stderr what to do next, and that a policy is no better than chance."""
    best, random = summary["best_return"], summary.get("random_return")
    if isinstance(best, float) and isinstance(random, float) and best <= random:
        typer.echo(
            f"slimq: {config.policy} plays no better than random ({best:.6g} against {random:.6g});"
            " train for longer, or with other settings",
            err=True,
        )
    place = "" if policies == DEFAULT_POLICIES else f" --policies {policies}"
    command = f"slimq shrink {config.policy}{place}"
    typer.echo(f"slimq: next, find its smallest variant: {command}", err=True)


def publish_policy(
    config: TrainConfig, run: Run, learner: Learner, policies: Path
) -> PolicyManifest:
    """Publishes the run's best network and its calibration set in the repository."""
    import numpy as np

    from slimq.core.manifest import PolicyManifest, RandomPolicyRecord, TrainingRecord
    from slimq.core.publish import Publisher, content_entry
    from slimq.core.repository import Repository
    from slimq.core.seeds import HELD_OUT
    from slimq.environments.collection import collect_calibration
    from slimq.environments.rollout import random_returns
    from slimq.environments.vector import describe
    from slimq.networks.checkpoint import load_network
    from slimq.networks.hardware import describe_hardware
    from slimq.networks.torch_policy import TorchPolicy
    from slimq_trainer.run import versions

    checkpoint = run.best_network.read_bytes()
    observation, actions, action_start = describe(config.environment)
    q_function = TorchPolicy(load_network(checkpoint, str(run.best_network)))
    calibration = collect_calibration(
        config.environment, observation, q_function, config.calibration_states
    ).to_bytes()
    returns = random_returns(config.environment, len(actions), HELD_OUT.seeds(RANDOM_EPISODES))
    network_entry = content_entry("checkpoint", ".safetensors", checkpoint)
    calibration_entry = content_entry("calibration", ".npz", calibration)
    manifest = PolicyManifest(
        name=config.policy,
        environment=config.environment,
        observation=observation,
        actions=actions,
        action_start=action_start,
        training=TrainingRecord(
            config=config.model_dump(mode="json"),
            seed=config.seed,
            steps=learner.step,
            published_step=run.best[0] if run.best else None,
            updates=learner.updates,
            seconds=run.seconds,
            hardware=describe_hardware(learner.device, learner.precision),
            versions=versions(),
            curve=run.curve,
        ),
        random_policy=RandomPolicyRecord(
            mean=float(np.mean(returns)), episodes=len(returns), seeds=HELD_OUT.name
        ),
        history=run.history,
        checkpoint=network_entry,
        calibration=calibration_entry,
    )
    files = {network_entry.path: checkpoint, calibration_entry.path: calibration}
    Publisher(Repository(policies)).publish_policy(manifest, files)
    return manifest


def _find_start(path: Path, folder: Path, *, fresh: bool) -> Start:
    """Finds what training starts from; with `fresh`, takes its weights alone.

    Raises:
        InvalidInputError: clearing the run folder would delete it.
    """
    from slimq_trainer.start import find_start

    start = find_start(path)
    typer.echo(f"slimq: {path}: found {start.found}", err=True)
    if not fresh:
        return start
    if start.folder.resolve() == folder.resolve():
        raise InvalidInputError(
            "--from", "a place outside the run folder, which --fresh clears", str(path)
        )
    return dataclasses.replace(start, checkpoint=None)


@contextlib.contextmanager
def _config_errors(config_file: Path, table: str = "") -> Iterator[None]:
    """Turns an invalid value into a `ConfigError` that names the file and the key."""
    try:
        yield
    except InvalidInputError as error:
        problem = f"expected {error.expected}, received {error.received}"
        raise ConfigError(str(config_file), f"{table}{error.field}", problem) from error


@contextlib.contextmanager
def _name_checkpoint(folder: Path) -> Iterator[None]:
    """Adds to a failure of the environment where training can resume."""
    from slimq_trainer.checkpoint import latest_checkpoint

    try:
        yield
    except EnvironmentFailure as error:
        path = latest_checkpoint(folder)
        if path is None:
            raise
        problem = f"{error.problem}; the last checkpoint is kept: {path}"
        raise EnvironmentFailure(error.environment, error.place, error.field, problem) from error


def _check_free(policies: Path, name: str) -> None:
    from slimq.core.repository import Repository

    if Repository(policies).has_policy(name):
        raise InvalidInputError(
            "policy",
            "an unused name, or --replace",
            f"{name!r}, which already exists in {policies}",
        )


def _find_default(policies: Path, name: str) -> str | None:
    """The default variant of the policy to be replaced; None if there is no readable policy."""
    from slimq.core.repository import Repository

    try:
        return Repository(policies).policy(name).default_variant
    except SlimqError:
        return None
