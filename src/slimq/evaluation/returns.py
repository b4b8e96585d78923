"""Plays a variant's episodes and logs each as it ends, so that an interruption costs little."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Protocol

import numpy as np
import structlog

from slimq.core.atomic import naming
from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import RepositoryError
from slimq.core.observation import Observations
from slimq.core.qfunction import QFunction, QValues
from slimq.environments.rollout import Begin, Episode, StepTrace, play_episodes

_log = structlog.get_logger(__name__)
_TYPES = {kind.__name__: kind for kind in (int, float, str, bool)}


class Progress(Protocol):
    """Receives the progress of an evaluation."""

    def begin(self, task: str, total: int, episodes: list[Episode]) -> None:
        """Called when a variant starts; `episodes` are those played in an earlier run."""
        ...

    def steps(self, count: int) -> None:
        """Called after `count` agent steps."""
        ...

    def episode(self, episode: Episode) -> None:
        """Called when an episode ends."""
        ...

    def end(self) -> None:
        """Called when the variant is finished or has failed."""
        ...


class Silent:
    """Ignores the progress."""

    def begin(self, task: str, total: int, episodes: list[Episode]) -> None:
        """Does nothing."""

    def steps(self, count: int) -> None:
        """Does nothing."""

    def episode(self, episode: Episode) -> None:
        """Does nothing."""

    def end(self) -> None:
        """Does nothing."""


class EpisodeLog:
    """Finished episodes of one model under fixed conditions, one JSON line each, synced to disk.

    A line truncated by a crash is skipped and its episode played again. Only whole lines are
    appended, so concurrent evaluations of a model repeat work but do no harm.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def of(
        folder: Path,
        model_sha256: str,
        spec: EnvironmentSpec,
        epsilon: float,
        versions: dict[str, str],
        disturbance: dict[str, object] | None = None,
    ) -> EpisodeLog:
        """The log named by everything, besides the seed, that an episode depends on."""
        conditions = {"environment": spec.model_dump(mode="json"), "epsilon": epsilon, **versions}
        conditions |= {} if disturbance is None else {"disturbance": disturbance}
        content = json.dumps(conditions, sort_keys=True).encode()
        name = f"{model_sha256[:16]}-{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
        return EpisodeLog(folder / name)

    def read(self) -> dict[int, Episode]:
        """Reads the episodes, by seed."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        episodes: dict[int, Episode] = {}
        for number, line in enumerate(lines, start=1):
            try:
                episode = _parse_episode(line)
            except (ValueError, TypeError):
                _log.warning("skipped an invalid line", path=str(self.path), line=number)
                continue
            episodes[episode.seed] = episode
        return episodes

    def append(self, episode: Episode) -> None:
        """Appends an episode; it is on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(asdict(episode)).encode() + b"\n"
        with naming(self.path), self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def for_replay(self) -> EpisodeLog:
        """The log for playing the same episodes again; empty unless a replay was interrupted."""
        return EpisodeLog(self.path.with_suffix(".again.jsonl"))

    def replace(self, other: EpisodeLog) -> None:
        """Replaces another log, whose episodes are discarded.

        Does nothing if this log has gone, because a concurrent evaluation of the model was first.
        """
        with contextlib.suppress(FileNotFoundError):
            self.path.replace(other.path)


def _parse_episode(line: bytes) -> Episode:
    """Reads a line of a log.

    Raises:
        ValueError: it is not JSON, a value has the wrong type, or the return is not finite.
        TypeError: it is not an object with the fields of an episode.
    """
    episode = Episode(**json.loads(line))
    for field in fields(Episode):
        value, expected = getattr(episode, field.name), _TYPES[str(field.type)]
        if type(value) is not expected:
            raise ValueError(f"{field.name}: expected {field.type}, received {value!r}")
    if not math.isfinite(episode.return_):
        raise ValueError(f"return_: expected a finite number, received {episode.return_}")
    return episode


def play_all(
    spec: EnvironmentSpec,
    q_function: QFunction,
    seeds: Iterable[int],
    log: EpisodeLog | None,
    *,
    epsilon: float,
    environments: int,
    name: str,
    progress: Progress,
    on_step: Callable[[StepTrace], None] | None = None,
    begin: Begin | None = None,
) -> list[Episode]:
    """Plays one episode per seed, except those in the log; returns all in seed order.

    Args:
        spec: the environment.
        q_function: the variant.
        seeds: one per episode.
        log: log of finished episodes; None to keep none.
        epsilon: probability of a uniformly random action.
        environments: number of episodes to play in parallel.
        name: name of the variant, for errors and progress.
        progress: receives the progress.
        on_step: called with every step.
        begin: makes the passage of an episode from its seed; by default, episodes are undisturbed.

    Raises:
        RepositoryError: the model returns non-finite Q-values.
    """
    wanted = list(seeds)
    known = log.read() if log else {}
    done = {seed: known[seed] for seed in wanted if seed in known}
    missing = [seed for seed in wanted if seed not in done]
    progress.begin(name, len(wanted), list(done.values()))

    def watch(trace: StepTrace) -> None:
        progress.steps(len(trace.actions))
        if on_step:
            on_step(trace)

    try:
        for episode in play_episodes(
            spec,
            require_finite(q_function, name),
            missing,
            epsilon=epsilon,
            environments=environments,
            on_step=watch,
            begin=begin,
        ):
            if log:
                log.append(episode)
            done[episode.seed] = episode
            progress.episode(episode)
    finally:
        progress.end()
    return [done[seed] for seed in wanted]


def require_finite(q_function: QFunction, name: str) -> QFunction:
    """Wraps a Q-function so that it raises `RepositoryError` on non-finite Q-values."""

    def checked(observations: Observations, /) -> QValues:
        q_values = q_function(observations)
        if not np.isfinite(q_values).all():
            raise RepositoryError(name, "the model returns non-finite Q-values")
        return q_values

    return checked
