"""Collects states and transitions for passes by playing the environment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from slimq.core.calibration import CalibrationSet
from slimq.core.conditions.catalogue import Condition
from slimq.core.conditions.passage import Passage, Situation, measure_spread
from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import InvalidInputError
from slimq.core.manifest import PolicyManifest
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QFunction
from slimq.core.seeds import COLLECTION
from slimq.environments.collection import (
    States,
    Transitions,
    collect_states,
    collect_transitions,
    join_states,
    join_transitions,
)
from slimq.environments.rollout import Begin

OFFSET, STRIDE, SPAN = 100_000, 2_000, 800_000
"""A collector's first offset into the collection seeds, its advance per call, and its period."""
COPIES = 8
"""Episodes played in parallel."""


def seeds_of_call(number: int) -> Sequence[int]:
    """The seeds of a collector's call, given the number of earlier calls."""
    offset = OFFSET + number * STRIDE % SPAN
    return range(COLLECTION.start + offset, COLLECTION.start + COLLECTION.size)


def make_collector(
    manifest: PolicyManifest, calibration: CalibrationSet
) -> PolicyCollector | RecordedCollector:
    """The collector of a policy: plays its environment, or draws from its recorded states."""
    if manifest.environment is None:
        return RecordedCollector(manifest.observation, calibration)
    spread = measure_spread(calibration.observations(manifest.observation), manifest.observation)
    return PolicyCollector(
        manifest.environment, manifest.observation, len(manifest.actions), spread
    )


class RecordedCollector:
    """Draws from recorded states, for a policy without an environment to play in."""

    def __init__(self, observation: ObservationSpec, calibration: CalibrationSet) -> None:
        self.recorded = calibration.observations(observation)
        self.calls = 0

    def states(
        self,
        q_function: QFunction,
        steps: int,
        *,
        epsilon: float,
        keep_every: int = 1,
        conditions: Sequence[Condition] = (),
    ) -> States:
        """Draws `steps` recorded states at random; ignores who would play, and how."""
        del q_function, epsilon, keep_every, conditions
        self.calls += 1
        generator = np.random.default_rng(seeds_of_call(self.calls - 1)[0])
        drawn: Observations = self.recorded[generator.integers(len(self.recorded), size=steps)]
        return States(drawn, drawn)

    def transitions(
        self,
        q_function: QFunction,
        steps: int,
        *,
        epsilon: float,
        conditions: Sequence[Condition] = (),
    ) -> Transitions:
        """Raises an error, since recorded states have no rewards.

        Raises:
            InvalidInputError: always.
        """
        del q_function, steps, epsilon, conditions
        expected = "a policy with an environment, since learning from rewards needs play"
        raise InvalidInputError("finetune_td.policy", expected, "recorded states alone")


@dataclass(frozen=True)
class _Stream:
    """`steps` states to collect in parallel copies of one environment."""

    environment: EnvironmentSpec
    seeds: Sequence[int]
    steps: int
    copies: int
    begin: Begin | None


class PolicyCollector:
    """Plays a policy's environment on collection seeds not used by the calibration set."""

    def __init__(
        self,
        environment: EnvironmentSpec,
        observation: ObservationSpec,
        actions: int,
        spread: Sequence[float] | None,
    ) -> None:
        """Stores the environment and what conditions depend on; see `Situation`."""
        self.environment, self.observation, self.actions = environment, observation, actions
        self.spread = None if spread is None else tuple(spread)
        self.calls = 0

    def states(
        self,
        q_function: QFunction,
        steps: int,
        *,
        epsilon: float,
        keep_every: int = 1,
        conditions: Sequence[Condition] = (),
    ) -> States:
        """See `slimq_compression.context.Collector`."""
        seeds = self._seeds()
        collected = [
            collect_states(
                stream.environment,
                q_function,
                stream.steps,
                epsilon=epsilon,
                seeds=stream.seeds,
                environments=stream.copies,
                keep_every=keep_every,
                begin=stream.begin,
            )
            for stream in self._streams(seeds, steps, conditions)
        ]
        return join_states(collected)

    def _streams(
        self, seeds: Sequence[int], steps: int, conditions: Sequence[Condition]
    ) -> Iterator[_Stream]:
        """Yields the policy's environment, after one for each condition that changes it."""
        situations = [
            Situation(one, self.environment, self.observation, self.actions, self.spread)
            for one in conditions
        ]
        share = 1 / (2 * max(1, len(situations)))
        apart = [one for one in situations if one.played != self.environment]
        for index, one in enumerate(apart, 1):
            part, copies = round(share * steps), max(1, round(share * COPIES))
            later = seeds[index * STRIDE // (len(apart) + 1) :]
            if part:
                yield _Stream(one.played, later, part, copies, one.begin)
            steps -= part
        within = [one for one in situations if one.played == self.environment]
        begin = _in_turn(within, seeds[0], self.calls) if within else None
        yield _Stream(self.environment, seeds, steps, COPIES, begin)

    def transitions(
        self,
        q_function: QFunction,
        steps: int,
        *,
        epsilon: float,
        conditions: Sequence[Condition] = (),
    ) -> Transitions:
        """See `slimq_compression.context.Collector`."""
        seeds = self._seeds()
        collected = [
            collect_transitions(
                stream.environment,
                q_function,
                stream.steps,
                epsilon=epsilon,
                seeds=stream.seeds,
                environments=stream.copies,
                begin=stream.begin,
            )
            for stream in self._streams(seeds, steps, conditions)
        ]
        return join_transitions(collected)

    def _seeds(self) -> Sequence[int]:
        self.calls += 1
        return seeds_of_call(self.calls - 1)


def _in_turn(situations: Sequence[Situation], first: int, turn: int) -> Begin:
    """Disturbs every second episode from seed `first` on, by each situation in turn."""

    def begin(seed: int) -> Passage | None:
        pair, disturbed = divmod(seed - first, 2)
        return situations[(pair + turn) % len(situations)].begin(seed) if disturbed else None

    return begin
