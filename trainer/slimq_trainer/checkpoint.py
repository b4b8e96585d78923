"""Checkpoints that resume exactly: weights, optimizer, replay, generators and environments.

Simulators are not saved but restored: each environment is restarted from its episode's seed and
replays the episode's actions, which leads to the same state in CartPole and, without sticky
actions, in the Atari games. A checkpoint is a folder that is renamed into place only once complete,
so a process killed at any moment leaves the previous checkpoint intact.
"""

from __future__ import annotations

import os
import pickle
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import zstandard
from torch import Tensor

from slimq.core.atomic import sync_folder
from slimq.core.errors import TrainingError, first_line
from slimq.core.observation import Observations
from slimq.environments.vector import VectorEnvironment
from slimq_trainer.learner import Learner
from slimq_trainer.replay import ReplayBuffer

_PREFIX = "checkpoint-"
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


def save_checkpoint(folder: Path, learner: Learner, progress: dict[str, Any]) -> Path:
    """Writes a checkpoint, then removes the previous ones.

    Args:
        folder: the folder of checkpoints.
        learner: the state to save.
        progress: the caller's own values, returned by `load_checkpoint`.
    """
    # The name is unique even if this step was saved before: nothing is replaced in place.
    path = folder / f"{_PREFIX}{learner.step:012d}-{time.time_ns()}"
    unfinished = folder / f"{path.name}{_UNFINISHED}"
    unfinished.mkdir(parents=True)
    _write_replay(unfinished / "replay.zst", learner.replay)
    with (unfinished / "state.pt").open("wb") as file:
        torch.save(_state(learner) | {"progress": progress}, file)
        _flush(file)
    unfinished.rename(path)
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


def load_checkpoint(path: Path, learner: Learner) -> dict[str, Any]:
    """Restores a new learner of the same configuration; returns the saved progress.

    Raises:
        TrainingError: the checkpoint has a different configuration, or cannot be read.
    """
    try:
        state = torch.load(path / "state.pt", map_location=learner.device, weights_only=True)
        _check_config(path, learner, state["config"])
        _restore(learner, state)
        _read_replay(path / "replay.zst", learner.replay)
    except _UNREADABLE as error:
        raise TrainingError(
            f"{path}: cannot be read ({first_line(error)}); use --fresh to start over"
        ) from error
    learner.observations = replay_episodes(
        learner.environment, learner.episode_seeds, learner.episode_actions
    )
    progress: dict[str, Any] = state["progress"]
    return progress


def _check_config(path: Path, learner: Learner, saved: dict[str, Any]) -> None:
    wanted = _comparable(learner)
    if saved != wanted:
        raise TrainingError(
            f"{path}: was made with other values of {', '.join(_changes(saved, wanted))}; "
            "restore the configuration, or use --fresh to start over"
        )


def _changes(saved: dict[str, Any], wanted: dict[str, Any], table: str = "") -> list[str]:
    """The keys that differ, such as `algorithm.gamma`."""
    found = []
    for key in sorted(saved.keys() | wanted.keys()):
        before, now = saved.get(key), wanted.get(key)
        if before != now and isinstance(before, dict) and isinstance(now, dict):
            found += _changes(before, now, f"{table}{key}.")
        elif before != now:
            found.append(f"{table}{key}")
    return found


def _restore(learner: Learner, state: dict[str, Any]) -> None:
    learner.online.load_state_dict(state["online"])
    learner.target.load_state_dict(state["target"])
    if learner.average is not None:
        learner.average.load_state_dict(state["average"])
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.exploration.bit_generator.state = state["exploration"]
    learner.sampling.set_state(state["sampling"].cpu())
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


def replay_episodes(
    environment: VectorEnvironment, seeds: list[int], actions: list[list[int]]
) -> Observations:
    """Restores every environment by replaying its actions from its seed."""
    observations = environment.start(seeds)
    longest = max(len(taken) for taken in actions)
    delay = [longest - len(taken) for taken in actions]
    waiting = np.zeros(len(seeds), dtype=np.bool_)
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
    late = np.array([wait == longest for wait in delay]) | waiting
    if longest and late.any():
        chosen = [seed for seed, now in zip(seeds, late, strict=True) if now]
        observations = environment.restart(late, chosen)
    return observations


def _state(learner: Learner) -> dict[str, Any]:
    priorities = learner.replay.priorities
    return {
        "config": _comparable(learner),
        "online": learner.online.state_dict(),
        "target": learner.target.state_dict(),
        "average": None if learner.average is None else learner.average.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "exploration": learner.exploration.bit_generator.state,
        "sampling": learner.sampling.get_state(),
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


def _comparable(learner: Learner) -> dict[str, Any]:
    """The part of the configuration that must match the checkpoint; run settings may change."""
    config = learner.config.model_dump(mode="json", exclude={"run", "calibration_states"})
    return config | {"precision": learner.precision}


def _used(replay: ReplayBuffer) -> int:
    return int(np.minimum(replay.written, replay.rows).max())


def _write_replay(path: Path, replay: ReplayBuffer) -> None:
    with path.open("wb") as file:
        with zstandard.ZstdCompressor(level=1).stream_writer(file, closefd=False) as stream:
            for block in _blocks(replay):
                stream.write(block.contiguous().cpu().numpy().data)
        _flush(file)


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


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
