"""Collects states, transitions and the calibration set by playing ε-greedily on collection seeds.

Play is a stream of steps: an environment whose episode ends starts the next seed. ε is drawn from
each episode's own generator, as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slimq.core.calibration import CalibrationSet
from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import InvalidInputError
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QFunction, QValues
from slimq.core.seeds import COLLECTION, exploration_generator
from slimq.environments.rollout import choose_action
from slimq.environments.vector import VectorEnvironment

CALIBRATION_ENVIRONMENTS = 8
CALIBRATION_WINDOW = 8
CALIBRATION_HORIZON = 2_000
"""Steps over which windows are spread: a Pong episode is about 1,700, a CartPole one 500."""


@dataclass(frozen=True)
class Transitions:
    """What followed from each action.

    Attributes:
        observations: `(steps, *shape)`.
        actions: `(steps,)`, int64, explored ones included.
        rewards: `(steps,)`, float32, not clipped.
        next_observations: `(steps, *shape)`; the terminal observation where an episode ended.
        terminated: `(steps,)`, bool; False where the step cap ended the episode.
    """

    observations: Observations
    actions: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float32]
    next_observations: Observations
    terminated: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class _Step:
    """One step of all environments, and what it led to."""

    observations: Observations
    q_values: QValues
    actions: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float32]
    next_observations: Observations
    terminated: npt.NDArray[np.bool_]


def collect_states(
    spec: EnvironmentSpec,
    q_function: QFunction,
    steps: int,
    *,
    epsilon: float,
    seeds: Sequence[int],
    environments: int = 8,
    keep_every: int = 1,
) -> Observations:
    """States that `q_function` visits, `(steps, *shape)`, in the order of play.

    Args:
        spec: the environment.
        q_function: chooses the actions.
        steps: states to return, over all environments.
        epsilon: probability of a random action.
        seeds: of the episodes, used in order; more than are needed is no waste (`range` is fine).
        environments: how many episodes to play side by side.
        keep_every: play so many steps for each state kept: neighbours are nearly the same.

    Raises:
        InvalidInputError: a number is out of range, or the seeds end before the steps do.
    """
    _check(steps=steps, environments=environments, keep_every=keep_every)
    kept: list[Observations] = []
    rounds = math.ceil(steps / environments)
    stream = _walk(spec, q_function, epsilon, seeds, environments)
    for index, step in zip(range(rounds * keep_every), stream, strict=False):
        if index % keep_every == 0:
            kept.append(step.observations)
    stream.close()
    states: Observations = np.concatenate(kept)[:steps]  # type: ignore[assignment]
    return states


def collect_transitions(
    spec: EnvironmentSpec,
    q_function: QFunction,
    steps: int,
    *,
    epsilon: float,
    seeds: Sequence[int],
    environments: int = 8,
) -> Transitions:
    """`steps` transitions of ε-greedy play; arguments and errors as for `collect_states`."""
    _check(steps=steps, environments=environments)
    rounds = math.ceil(steps / environments)
    stream = _walk(spec, q_function, epsilon, seeds, environments)
    played = [step for _, step in zip(range(rounds), stream, strict=False)]
    stream.close()

    def join(name: str) -> Any:
        return np.concatenate([getattr(step, name) for step in played])[:steps]

    return Transitions(
        observations=join("observations"),
        actions=join("actions"),
        rewards=join("rewards"),
        next_observations=join("next_observations"),
        terminated=join("terminated"),
    )


def collect_calibration(
    spec: EnvironmentSpec,
    observation: ObservationSpec,
    q_function: QFunction,
    states: int,
    *,
    epsilon: float = 0.05,
    seed_offset: int = 0,
) -> CalibrationSet:
    """States of real play, in windows of neighbours spread evenly over several episodes.

    Neighbouring frame stacks share all but one frame, so a window of 8 states of 4 frames takes 11
    frames rather than 32; equal frames (a ball waiting to be served) are stored once. Without a
    frame stack a window is a single state.

    Args:
        spec: the environment.
        observation: how its observations are laid out.
        q_function: the full policy; its Q-values are stored with the states.
        states: how many.
        epsilon: probability of a random action.
        seed_offset: first collection seed to use.

    Raises:
        InvalidInputError: `states` or `epsilon` is out of range.
    """
    _check(states=states)
    count = min(CALIBRATION_ENVIRONMENTS, states)
    window = CALIBRATION_WINDOW if observation.stack else 1
    windows = math.ceil(math.ceil(states / count) / window)
    period = max(window, CALIBRATION_HORIZON // windows)
    store = _FrameStore(observation)
    rows: list[npt.NDArray[np.int32]] = []
    q_values: list[QValues] = []
    seeds = range(COLLECTION.start + seed_offset, COLLECTION.start + COLLECTION.size)
    stream = _walk(spec, q_function, epsilon, seeds, count)
    # Environments take their windows at different times, so that they differ in the phase of play.
    shift = [slot * period // count for slot in range(count)]
    for index, step in enumerate(stream):
        for slot in range(count):
            if (index + shift[slot]) % period < window and len(rows) < states:
                rows.append(store.add(step.observations[slot]))
                q_values.append(step.q_values[slot])
        if len(rows) == states:
            break
    stream.close()
    return CalibrationSet(store.frames(), np.stack(rows), np.stack(q_values).astype(np.float32))


class _FrameStore:
    """Every frame once, found again by its content; an all-zero frame of a stack is padding."""

    def __init__(self, observation: ObservationSpec) -> None:
        self._observation = observation
        self._places: dict[bytes, int] = {}
        self._frames: list[npt.NDArray[Any]] = []

    def add(self, state: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """The indices of the frames of one state, oldest first."""
        stack = self._observation.stack
        if stack is None:
            return np.array([self._place(state)], dtype=np.int32)
        size = state.shape[stack.axis] // stack.count
        parts = [
            np.take(state, range(part * size, (part + 1) * size), axis=stack.axis)
            for part in range(stack.count)
        ]
        frames = [part.squeeze(stack.axis) if size == 1 else part for part in parts]
        return np.array([self._place(f) if f.any() else -1 for f in frames], dtype=np.int32)

    def frames(self) -> Observations:
        """All frames, `(frames, *frame)`; one of zeros where there is none."""
        if self._frames:
            return np.stack(self._frames)
        stack, shape = self._observation.stack, list(self._observation.shape)
        if stack is not None:
            del shape[stack.axis]
        return np.zeros((1, *shape), dtype=self._observation.numpy_dtype)

    def _place(self, frame: npt.NDArray[Any]) -> int:
        key = frame.tobytes()
        if key not in self._places:
            self._places[key] = len(self._frames)
            self._frames.append(np.array(frame))
        return self._places[key]


def _walk(
    spec: EnvironmentSpec,
    q_function: QFunction,
    epsilon: float,
    seeds: Sequence[int],
    environments: int,
) -> Generator[_Step, None, None]:
    """Plays without end; close the iterator to free the environments."""
    if not 0.0 <= epsilon <= 1.0:
        raise InvalidInputError("epsilon", "a number from 0 to 1", str(epsilon))
    unused = iter(seeds)
    vector = VectorEnvironment(spec, environments)
    try:
        first = [_next(unused, len(seeds)) for _ in range(environments)]
        generators = [exploration_generator(seed) for seed in first]
        observations = vector.start(first)
        while True:
            q_values = q_function(observations)
            actions = q_values.argmax(axis=1).astype(np.int64)
            for slot, generator in enumerate(generators):
                greedy = int(actions[slot])
                actions[slot] = choose_action(generator, greedy, q_values.shape[1], epsilon)
            result = vector.step(actions)
            yield _Step(
                observations,
                q_values,
                actions,
                result.rewards,
                result.observations,
                result.terminated,
            )
            observations = result.observations
            if result.ended.any():
                fresh = {int(s): _next(unused, len(seeds)) for s in np.flatnonzero(result.ended)}
                for slot, seed in fresh.items():
                    generators[slot] = exploration_generator(seed)
                observations = vector.restart(result.ended, list(fresh.values()))
    finally:
        vector.close()


def _next(seeds: Iterator[int], count: int) -> int:
    seed = next(seeds, None)
    if seed is None:
        raise InvalidInputError("seeds", "enough seeds for the steps", f"{count} seeds")
    return seed


def _check(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise InvalidInputError(name, "a number from 1 on", str(value))
