"""Plays a variant's episodes and remembers each as it ends: an interruption costs little."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np
import structlog

from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import RepositoryError
from slimq.core.observation import Observations
from slimq.core.qfunction import QFunction, QValues
from slimq.environments.rollout import Episode, StepTrace, play_episodes

_log = structlog.get_logger(__name__)


class Progress(Protocol):
    """Who watches an evaluation."""

    def begin(self, task: str, total: int, episodes: list[Episode]) -> None:
        """A variant starts; `episodes` were played before."""
        ...

    def steps(self, count: int) -> None:
        """So many agent steps were taken."""
        ...

    def episode(self, episode: Episode) -> None:
        """An episode ended."""
        ...

    def end(self) -> None:
        """The variant is done, or failed."""
        ...


class Silent:
    """Watches nothing."""

    def begin(self, task: str, total: int, episodes: list[Episode]) -> None:
        """Does nothing."""

    def steps(self, count: int) -> None:
        """Does nothing."""

    def episode(self, episode: Episode) -> None:
        """Does nothing."""

    def end(self) -> None:
        """Does nothing."""


class EpisodeLog:
    """Finished episodes of one model under fixed rules, one JSON line each, each synced to disk.

    A line torn by a crash is skipped, and played again. Only whole lines are appended, so two
    evaluations of the same model at once repeat work but harm nothing.
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
    ) -> EpisodeLog:
        """The log that is named by everything on which an episode depends besides its seed."""
        rules = {"environment": spec.model_dump(mode="json"), "epsilon": epsilon, **versions}
        content = json.dumps(rules, sort_keys=True).encode()
        name = f"{model_sha256[:16]}-{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
        return EpisodeLog(folder / name)

    def read(self) -> dict[int, Episode]:
        """The episodes by seed."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        episodes: dict[int, Episode] = {}
        for number, line in enumerate(lines, start=1):
            try:
                episode = Episode(**json.loads(line))
            except (ValueError, TypeError):
                _log.warning("skipped a torn line", path=str(self.path), line=number)
                continue
            episodes[episode.seed] = episode
        return episodes

    def append(self, episode: Episode) -> None:
        """Writes an episode; it is on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(asdict(episode)).encode() + b"\n"
        with self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def again(self) -> EpisodeLog:
        """The log of the same episodes played anew: empty, unless that was interrupted."""
        return EpisodeLog(self.path.with_suffix(".again.jsonl"))

    def replace(self, other: EpisodeLog) -> None:
        """Stands in the place of another log, whose episodes are dropped."""
        self.path.replace(other.path)


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
) -> list[Episode]:
    """One episode for each seed, in the order of the seeds; those in the log are not played again.

    Args:
        spec: the environment.
        q_function: the variant.
        seeds: of the episodes.
        log: where episodes are kept, None to keep them nowhere.
        epsilon: probability of a uniformly random action.
        environments: how many episodes to play side by side.
        name: of the variant, for errors and progress.
        progress: who watches.
        on_step: called with every step that is played.

    Raises:
        RepositoryError: the model gives Q-values that are not finite.
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
        ):
            if log:
                log.append(episode)
            done[episode.seed] = episode
            progress.episode(episode)
    finally:
        progress.end()
    return [done[seed] for seed in wanted]


def require_finite(q_function: QFunction, name: str) -> QFunction:
    """The same Q-function, which raises RepositoryError where Q-values are not finite."""

    def checked(observations: Observations, /) -> QValues:
        q_values = q_function(observations)
        if not np.isfinite(q_values).all():
            raise RepositoryError(name, "the model gives Q-values that are not finite")
        return q_values

    return checked
