"""Collects states and transitions for passes by playing the environment."""

from __future__ import annotations

from collections.abc import Sequence

from slimq.core.environment import EnvironmentSpec
from slimq.core.observation import Observations
from slimq.core.qfunction import QFunction
from slimq.core.seeds import COLLECTION
from slimq.environments.collection import Transitions, collect_states, collect_transitions

OFFSET, STRIDE, SPAN = 100_000, 2_000, 800_000
"""Where a collector starts in the range of collection seeds, how it advances, where it wraps."""


def seeds_of_call(number: int) -> Sequence[int]:
    """The seeds of a collector's play, by how often it was asked before."""
    offset = OFFSET + number * STRIDE % SPAN
    return range(COLLECTION.start + offset, COLLECTION.start + COLLECTION.size)


class PolicyCollector:
    """Plays a policy's environment on collection seeds not used by the calibration set."""

    def __init__(self, environment: EnvironmentSpec) -> None:
        self.environment = environment
        self.calls = 0

    def states(
        self, q_function: QFunction, steps: int, *, epsilon: float, keep_every: int = 1
    ) -> Observations:
        """See `slimq_compression.context.Collector`."""
        return collect_states(
            self.environment,
            q_function,
            steps,
            epsilon=epsilon,
            seeds=self._seeds(),
            keep_every=keep_every,
        )

    def transitions(self, q_function: QFunction, steps: int, *, epsilon: float) -> Transitions:
        """See `slimq_compression.context.Collector`."""
        return collect_transitions(
            self.environment, q_function, steps, epsilon=epsilon, seeds=self._seeds()
        )

    def _seeds(self) -> Sequence[int]:
        self.calls += 1
        return seeds_of_call(self.calls - 1)
