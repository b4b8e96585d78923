"""Collects states and transitions for passes by playing the environment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slimq.core.calibration import CalibrationSet
from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import InvalidInputError
from slimq.core.manifest import PolicyManifest
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QFunction
from slimq.core.seeds import COLLECTION
from slimq.environments.collection import Transitions, collect_states, collect_transitions

OFFSET, STRIDE, SPAN = 100_000, 2_000, 800_000
"""Where a collector starts in the range of collection seeds, how it advances, where it wraps."""


def seeds_of_call(number: int) -> Sequence[int]:
    """The seeds of a collector's play, by how often it was asked before."""
    offset = OFFSET + number * STRIDE % SPAN
    return range(COLLECTION.start + offset, COLLECTION.start + COLLECTION.size)


def make_collector(
    manifest: PolicyManifest, calibration: CalibrationSet
) -> PolicyCollector | RecordedCollector:
    """The collector of a policy: plays its environment, or draws from its recorded states."""
    if manifest.environment is None:
        return RecordedCollector(manifest.observation, calibration)
    return PolicyCollector(manifest.environment)


class RecordedCollector:
    """Draws from recorded states, for a policy without an environment to play in."""

    def __init__(self, observation: ObservationSpec, calibration: CalibrationSet) -> None:
        self.recorded = calibration.observations(observation)
        self.calls = 0

    def states(
        self, q_function: QFunction, steps: int, *, epsilon: float, keep_every: int = 1
    ) -> Observations:
        """Draws `steps` recorded states, whoever would play and however; see `Collector`."""
        del q_function, epsilon, keep_every
        self.calls += 1
        generator = np.random.default_rng(seeds_of_call(self.calls - 1)[0])
        drawn: Observations = self.recorded[generator.integers(len(self.recorded), size=steps)]
        return drawn

    def transitions(self, q_function: QFunction, steps: int, *, epsilon: float) -> Transitions:
        """Refuses: recorded states have no rewards.

        Raises:
            InvalidInputError: always.
        """
        del q_function, steps, epsilon
        expected = "a policy with an environment, since learning from rewards needs play"
        raise InvalidInputError("finetune_td.policy", expected, "recorded states alone")


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
