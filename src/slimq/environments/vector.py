"""Vectorized environments in which each environment is reset explicitly.

Every episode starts from its own seed, chosen by the caller, and is independent of the number of
parallel environments. There is no autoreset: the last observation of an episode is the terminal
one, and there are no dummy transitions to skip.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from slimq.core.environment import DEFAULT_EPISODE_STEPS, EnvironmentSpec
from slimq.core.observation import Observations
from slimq.environments.atari import AtariCopies
from slimq.environments.copies import Copies
from slimq.environments.description import Description, describe
from slimq.environments.make import make_single
from slimq.environments.results import StepResult

__all__ = [
    "Description",
    "StepResult",
    "VectorEnvironment",
    "describe",
    "make_single",
]


class VectorEnvironment:
    """`count` copies of one environment, stepped together but reset individually."""

    def __init__(self, spec: EnvironmentSpec, count: int, threads: int = 0) -> None:
        """Creates the environments.

        Args:
            spec: the environment.
            count: number of copies.
            threads: threads for stepping Atari games; 0 for `thread_limit`, or one per core if
                unset.

        Raises:
            InvalidInputError: the environment is unknown, or its spaces are not supported.
            EnvironmentFailure: it cannot be made.
        """
        self.spec, self.count = spec, count
        atari = spec.preprocessing
        self._copies = AtariCopies(spec, atari, count, threads) if atari else Copies(spec, count)
        own = self._copies.step_limit
        self._limit = spec.max_episode_steps or own or DEFAULT_EPISODE_STEPS
        self._steps = np.zeros(count, dtype=np.int64)

    def start(self, seeds: Sequence[int]) -> Observations:
        """Starts an episode in every environment; returns the observations `(count, *shape)`."""
        return self.restart(np.ones(self.count, dtype=np.bool_), seeds)

    def restart(self, mask: npt.NDArray[np.bool_], seeds: Sequence[int]) -> Observations:
        """Starts a new episode where `mask` is set; returns all observations.

        Args:
            mask: `(count,)`, the environments to restart.
            seeds: one per environment set in `mask`, in order.

        Raises:
            EnvironmentFailure: an environment raises an exception or breaks its contract.
        """
        observations = self._copies.restart(mask, seeds)
        self._steps[mask] = 0
        return observations

    def step(self, actions: npt.NDArray[np.int64]) -> StepResult:
        """Takes one agent step in every environment.

        An environment whose episode has ended must be restarted before its next step.

        Args:
            actions: `(count,)`, counted from 0, whatever the environment's own numbers are.

        Raises:
            EnvironmentFailure: an environment raises an exception or breaks its contract.
        """
        result = self._copies.step(actions)
        self._steps += 1
        over = self._steps >= self._limit
        return StepResult(
            observations=result.observations,
            rewards=result.rewards,
            terminated=result.terminated,
            truncated=(result.truncated | over) & ~result.terminated,
        )

    def close(self) -> None:
        """Frees the environments.

        Raises:
            EnvironmentFailure: an environment raises an exception, unless one failed before.
        """
        self._copies.close()
