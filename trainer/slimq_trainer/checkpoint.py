"""Checkpoints that resume exactly: weights, optimizer, replay, generators and environments.

The state of simulators is not saved but replayed: each environment restarts from its episode's seed
and repeats the episode's actions, which leads to the same state in CartPole and in the Atari games,
whose sticky actions are drawn from the seed, too. If the observation then differs from the saved
one, because an environment ignores its seed, the episode is abandoned: the replay buffer keeps it
as truncated.

A checkpoint is a folder that is renamed into place only once complete, so a process killed at any
moment leaves the previous checkpoint intact.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog
import torch
import zstandard
from torch import Tensor

from slimq.core.atomic import naming, sync_folder, write_atomically
from slimq.core.errors import TrainingError, first_line
from slimq.core.observation import Observations
from slimq.environments.vector import VectorEnvironment
from slimq.networks.checkpoint import save_network
from slimq.networks.qnetwork import QNetwork
from slimq.networks.specification import QNetworkSpec
from slimq_trainer.changes import comparable, differences, fixed_keys
from slimq_trainer.learner import Learner
from slimq_trainer.replay import ReplayBuffer

FORMAT = 2
"""Version of the checkpoint's layout; version 1 did not record it."""
_PREFIX = "checkpoint-"
_BEST = "best-"
_STATE, _REPLAY = "state.pt", "replay.zst"
_UNFINISHED = ".unfinished"
_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    EOFError,
    pickle.UnpicklingError,
    zstandard.ZstdError,
)
_REPLAY_FIELDS = ("frames", "actions", "rewards", "terminated", "ended", "ages")
_BLOCK_ROWS = 4096
_log = structlog.get_logger(__name__)


def save_checkpoint(folder: Path, learner: Learner, progress: dict[str, Any]) -> Path:
    """Writes a checkpoint, then removes the previous ones.

    Args:
        folder: the folder of checkpoints.
        learner: the state to save.
        progress: the caller's own values, returned by `load_checkpoint`.

    Raises:
        OSError: it cannot be written; previous checkpoints stay, and no partial one is left.
    """
    # The name is unique even if this step was saved before: nothing is replaced in place.
    path = folder / f"{_PREFIX}{learner.step:012d}-{time.time_ns()}"
    unfinished = folder / f"{path.name}{_UNFINISHED}"
    with naming(path):
        unfinished.mkdir(parents=True)
        try:
            _write_replay(unfinished / _REPLAY, learner.replay)
            # Not written by torch, which does not report a full disk as an OSError.
            state = io.BytesIO()
            torch.save(_state(learner) | {"progress": progress}, state)
            write_atomically(unfinished / _STATE, state.getvalue())
            unfinished.rename(path)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        sync_folder(folder)
    remove_checkpoints(folder, keep=path)
    return path


def remove_checkpoints(folder: Path, keep: Path | None = None) -> None:
    """Removes all checkpoints except `keep`, including unfinished ones."""
    for path in folder.glob(f"{_PREFIX}*"):
        if path != keep:
            remove_checkpoint(path)


def remove_checkpoint(path: Path) -> None:
    """Renames the checkpoint before deleting it, so that a partial one is never loaded."""
    if path.suffix != _UNFINISHED:
        path = path.rename(path.with_name(path.name + _UNFINISHED))
    shutil.rmtree(path)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    complete = [path for path in folder.glob(f"{_PREFIX}*") if path.suffix != _UNFINISHED]
    return max(complete, default=None)


def best_network(folder: Path, step: int) -> Path:
    """The file of the best network, saved at an agent step.

    Its name contains the step, so that a checkpoint always finds its own best network.
    """
    return folder / f"{_BEST}{step:012d}.safetensors"


def best_networks(folder: Path) -> list[Path]:
    """The files of best networks in a folder, in the order of their steps."""
    return sorted(folder.glob(f"{_BEST}*"))


def read_state(
    path: Path, device: torch.device | None = None, *, starts_over: bool = True
) -> dict[str, Any]:
    """Reads a checkpoint without its replay buffer.

    Args:
        path: the checkpoint.
        device: where its tensors go; by default the CPU.
        starts_over: whether --fresh would help, so that errors advise it.

    Raises:
        TrainingError: it has another format, or cannot be read.
    """
    try:
        state = torch.load(path / _STATE, map_location=device or "cpu", weights_only=True)
        found = state.get("format", 1)
    except (*_UNREADABLE, AttributeError) as error:
        raise _unreadable(path, error, starts_over=starts_over) from error
    if found != FORMAT:
        fresh = "--fresh to start over, or " if starts_over else ""
        raise TrainingError(
            f"{path}: is a checkpoint of format {found}, this slimq reads format {FORMAT}; use "
            f"{fresh}--from with its best-*.safetensors for the weights alone"
        )
    return dict(state)


def network_of(state: dict[str, Any]) -> bytes:
    """The network that a checkpoint would evaluate and publish, in slimq's format."""
    network = QNetwork(QNetworkSpec.model_validate_json(state["network"]))
    network.load_state_dict(state["average"] or state["online"])
    return save_network(network)


def load_checkpoint(path: Path, learner: Learner, *, goes_on: bool = False) -> dict[str, Any]:
    """Restores a new learner; returns the saved progress.

    Args:
        path: the checkpoint.
        learner: a new learner, made from its configuration.
        goes_on: whether the configurations may differ, except in `fixed_keys`; the networks must be
            the same.

    Raises:
        TrainingError: the checkpoint has a different configuration, or cannot be read.
    """
    state = read_state(path, learner.device, starts_over=not goes_on)
    changes = differences(state["config"], comparable(learner.config, learner.precision))
    if refused := fixed_keys(changes) if goes_on else list(changes):
        raise TrainingError(
            f"{path}: was made with other values of {', '.join(refused)}; restore the "
            f"configuration, continue from it with --from {path.parent}, or use --fresh to start "
            "over"
        )
    try:
        _restore(learner, state)
        _read_replay(path / _REPLAY, learner.replay)
        saved = state["observations"].cpu().numpy()
    except _UNREADABLE as error:
        raise _unreadable(path, error, starts_over=not goes_on) from error
    _restore_episodes(learner, saved)
    progress: dict[str, Any] = state["progress"]
    return progress


def _unreadable(path: Path, error: Exception, *, starts_over: bool) -> TrainingError:
    # torch's own message advises loading the file without protection against foreign code.
    unpickled = isinstance(error, pickle.UnpicklingError)
    problem = f"{_STATE} is damaged or not a checkpoint" if unpickled else first_line(error)
    remedy = "; use --fresh to start over" if starts_over else ""
    return TrainingError(f"{path}: cannot be read ({problem}){remedy}")


def _restore(learner: Learner, state: dict[str, Any]) -> None:
    learner.online.load_state_dict(state["online"])
    learner.target.load_state_dict(state["target"])
    if learner.average is not None:
        learner.average.load_state_dict(state["average"] or state["online"])
    learner.optimizer.load_state_dict(state["optimizer"])
    for group in learner.optimizer.param_groups:  # its epsilon may have changed
        group["eps"] = learner.config.algorithm.denominator_term
    learner.exploration.bit_generator.state = state["exploration"]
    learner.sampling.set_state(state["sampling"].cpu())
    # Checkpoints made without augmentation, or before it existed, lack its state.
    if learner.augment is not None and state.get("augmentation") is not None:
        learner.augment.generator.bit_generator.state = state["augmentation"]
    learner.episode_seeds = list(state["episode_seeds"])
    learner.episode_actions = [list(actions) for actions in state["episode_actions"]]
    learner.episode_returns = np.array(state["episode_returns"], dtype=np.float64)
    learner.recent_returns.extend(state["recent_returns"])
    learner.next_seed, learner.step = state["next_seed"], state["step"]
    learner.updates, learner.episodes = state["updates"], state["episodes"]
    learner.replay.written[:] = state["replay_written"]
    learner.replay.episode_steps[:] = state["replay_episode_steps"]
    if learner.replay.priorities:
        learner.replay.priorities.largest.fill_(state["largest_priority"])


def _restore_episodes(learner: Learner, saved: Observations) -> None:
    """Restores the environments; begins a new episode where the observation differs."""
    replayed, strayed = replay_episodes(
        learner.environment, learner.episode_seeds, learner.episode_actions
    )
    learner.observations = replayed
    for index, (found, expected) in enumerate(zip(replayed, saved, strict=True)):
        strayed[index] |= found.tobytes() != expected.tobytes()
    if not strayed.any():
        return
    given_up = np.flatnonzero(strayed)
    learner.replay.truncate(given_up, saved)
    for index in given_up.tolist():
        learner.episode_seeds[index] = learner.next_seed
        learner.episode_actions[index] = []
        learner.episode_returns[index] = 0.0
        learner.next_seed += 1
    seeds = [learner.episode_seeds[index] for index in given_up]
    learner.observations = learner.environment.restart(strayed, seeds)
    learner.observe(learner.observations[strayed])
    _log.warning(
        "episodes restarted: from the same seed, the same actions led to other observations",
        environment=learner.config.environment.id,
        episodes=len(given_up),
        of=learner.environment.count,
    )


def replay_episodes(
    environment: VectorEnvironment, seeds: list[int], actions: list[list[int]]
) -> tuple[Observations, npt.NDArray[np.bool_]]:
    """Restores every environment by replaying its actions from its seed.

    Returns:
        The observations `(environments, *shape)`, and `(environments,)`, whether an episode ended
        that had not ended when it was first played.
    """
    observations = environment.start(seeds)
    longest = max(len(taken) for taken in actions)
    delay = [longest - len(taken) for taken in actions]
    waiting = np.zeros(len(seeds), dtype=np.bool_)
    strayed = np.zeros(len(seeds), dtype=np.bool_)
    for tick in range(longest):
        restart = np.array([tick > 0 and tick == wait for wait in delay]) | waiting
        if restart.any():
            chosen = [seed for seed, now in zip(seeds, restart, strict=True) if now]
            environment.restart(restart, chosen)
        row = [
            taken[tick - wait] if tick >= wait else 0
            for taken, wait in zip(actions, delay, strict=True)
        ]
        result = environment.step(np.array(row, dtype=np.int64))
        observations, waiting = result.observations, result.ended
        strayed |= waiting & np.array([tick >= wait for wait in delay])
    late = np.array([wait == longest for wait in delay]) | waiting
    if longest and late.any():
        chosen = [seed for seed, now in zip(seeds, late, strict=True) if now]
        observations = environment.restart(late, chosen)
    return observations, strayed


def _state(learner: Learner) -> dict[str, Any]:
    priorities, augment = learner.replay.priorities, learner.augment
    return {
        "format": FORMAT,
        "config": comparable(learner.config, learner.precision),
        "network": learner.online.spec.model_dump_json(),
        "observations": torch.from_numpy(learner.observations.copy()),
        "online": learner.online.state_dict(),
        "target": learner.target.state_dict(),
        "average": None if learner.average is None else learner.average.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "exploration": learner.exploration.bit_generator.state,
        "sampling": learner.sampling.get_state(),
        "augmentation": augment and augment.generator.bit_generator.state,
        "episode_seeds": learner.episode_seeds,
        "episode_actions": [list(actions) for actions in learner.episode_actions],
        "episode_returns": learner.episode_returns.tolist(),
        "recent_returns": list(learner.recent_returns),
        "next_seed": learner.next_seed,
        "step": learner.step,
        "updates": learner.updates,
        "episodes": learner.episodes,
        "replay_written": learner.replay.written.tolist(),
        "replay_episode_steps": learner.replay.episode_steps.tolist(),
        "largest_priority": float(priorities.largest) if priorities else None,
    }


def _used(replay: ReplayBuffer) -> int:
    return int(np.minimum(replay.written, replay.rows).max())


def _write_replay(path: Path, replay: ReplayBuffer) -> None:
    with path.open("wb") as file:
        with zstandard.ZstdCompressor(level=1).stream_writer(file, closefd=False) as stream:
            for block in _blocks(replay):
                stream.write(block.contiguous().cpu().numpy().data)
        file.flush()
        os.fsync(file.fileno())


def _read_replay(path: Path, replay: ReplayBuffer) -> None:
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        for block in _blocks(replay):
            array = np.empty(tuple(block.shape), dtype=block.cpu().numpy().dtype)
            content = stream.read(array.nbytes)
            if len(content) != array.nbytes:
                raise EOFError(f"{path.name} is truncated")
            array = np.frombuffer(content, dtype=array.dtype).reshape(array.shape)
            block.copy_(torch.from_numpy(array.copy()))


def _blocks(replay: ReplayBuffer) -> Iterator[Tensor]:
    """Yields views of the rows in use, in a fixed order."""
    used = _used(replay)
    tensors: list[Tensor] = [getattr(replay, name) for name in _REPLAY_FIELDS]
    if replay.priorities:
        tensors.append(replay.priorities.powers)
    for tensor in tensors:
        for environment in range(replay.environments):
            for start in range(0, used, _BLOCK_ROWS):
                yield tensor[environment, start : min(start + _BLOCK_ROWS, used)]
