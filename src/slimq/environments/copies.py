"""Copies of one environment, stepped one after another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from slimq.core.environment import EnvironmentSpec
from slimq.core.observation import Observations
from slimq.environments.guarded import GuardedEnvironment
from slimq.environments.results import StepResult


class Copies:
    """`count` copies of an environment, with the interface of `VectorEnvironment`.

    Attributes:
        step_limit: the environment's own limit of steps; None if it has none.
    """

    def __init__(self, spec: EnvironmentSpec, count: int) -> None:
        self._members: list[GuardedEnvironment] = []
        try:
            for _ in range(count):
                self._members.append(GuardedEnvironment(spec))
        except BaseException:
            self._abandon()
            raise
        first = self._members[0]
        self.step_limit = first.step_limit
        self._latest = np.zeros((count, *first.observation.shape), first.observation.dtype)

    def restart(self, mask: npt.NDArray[np.bool_], seeds: Sequence[int]) -> Observations:
        """Starts a new episode where `mask` is set; returns all observations."""
        for index, seed in zip(np.flatnonzero(mask).tolist(), seeds, strict=True):
            try:
                self._latest[index] = self._members[index].reset(int(seed))
            except BaseException:
                self._abandon()
                raise
        return self._latest.copy()

    def step(self, actions: npt.NDArray[np.int64]) -> StepResult:
        """Takes one step in every environment."""
        count = len(self._members)
        rewards = np.zeros(count, dtype=np.float32)
        terminated, truncated = np.zeros((2, count), dtype=np.bool_)
        for index, (member, action) in enumerate(zip(self._members, actions.tolist(), strict=True)):
            try:
                observation, reward, terminated[index], truncated[index] = member.step(action)
            except BaseException:
                self._abandon()
                raise
            self._latest[index] = observation
            rewards[index] = reward
        return StepResult(self._latest.copy(), rewards, terminated, truncated)

    def close(self) -> None:
        """Frees all environments, then raises the first failure."""
        failures = []
        for member in self._members:
            try:
                member.close()
            except Exception as error:
                failures.append(error)
        self._members = []
        if failures:
            raise failures[0]

    def _abandon(self) -> None:
        """Frees all environments after a failure, and ignores further ones."""
        for member in self._members:
            member.abandon()
