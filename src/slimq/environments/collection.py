"""Collects states, transitions and the calibration set by playing ε-greedily on collection seeds.

Play is a continuous stream of steps: when an episode ends, its environment starts the next seed. As
everywhere, exploration draws from each episode's own generator. Under conditions, the policy acts
on disturbed observations, and these are kept together with the environment's own.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from slimq.core.calibration import CalibrationSet
from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import InvalidInputError
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QFunction, QValues
from slimq.core.seeds import COLLECTION, exploration_generator
from slimq.environments.rollout import Begin, Passage, arriving, choose_action, taken
from slimq.environments.vector import VectorEnvironment

CALIBRATION_ENVIRONMENTS = 8
CALIBRATION_WINDOW = 8
CALIBRATION_HORIZON = 2_000
"""Steps over which windows are spread; an episode of Pong has about 1,700, one of CartPole 500."""


@dataclass(frozen=True)
class States:
    """States of play.

    Attributes:
        arrived: `(states, *shape)`, observations that the policy acted on.
        present: `(states, *shape)`, the environment's own observations at the same steps; the same
            array if all play was undisturbed.
    """

    arrived: Observations
    present: Observations

    def __len__(self) -> int:
        return len(self.arrived)


def join_states(parts: Sequence[States]) -> States:
    """Joins at least one batch of states, in order."""
    if len(parts) == 1:
        return parts[0]
    arrived: Any = np.concatenate([part.arrived for part in parts])
    present: Any = np.concatenate([part.present for part in parts])
    return States(arrived, present)


@dataclass(frozen=True)
class Transitions:
    """A batch of transitions, as the policy saw and chose them.

    Attributes:
        observations: `(steps, *shape)`, observations that the policy acted on.
        actions: `(steps,)`, int64, the chosen actions, exploratory ones included.
        rewards: `(steps,)`, float32, unclipped.
        next_observations: `(steps, *shape)`; the terminal observation where an episode ended.
        terminated: `(steps,)`, bool; False where the step limit ended the episode.
        present: `(steps, *shape)`, the environment's own observations; see `States`.
    """

    observations: Observations
    actions: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float32]
    next_observations: Observations
    terminated: npt.NDArray[np.bool_]
    present: Observations

    def __len__(self) -> int:
        return len(self.actions)


def join_transitions(parts: Sequence[Transitions]) -> Transitions:
    """Joins at least one batch of transitions, in order."""

    def join(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    return parts[0] if len(parts) == 1 else Transitions(*map(join, TRANSITION_FIELDS))


TRANSITION_FIELDS = tuple(known.name for known in fields(Transitions))


@dataclass(frozen=True)
class _Step:
    """One step of all environments and its results, with the fields of `Transitions`."""

    observations: Observations
    actions: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float32]
    next_observations: Observations
    terminated: npt.NDArray[np.bool_]
    present: Observations
    q_values: QValues


def collect_states(
    spec: EnvironmentSpec,
    q_function: QFunction,
    steps: int,
    *,
    epsilon: float,
    seeds: Sequence[int],
    environments: int = 8,
    keep_every: int = 1,
    begin: Begin | None = None,
) -> States:
    """Collects states visited by `q_function`, in order of play.

    Args:
        spec: the environment.
        q_function: chooses the actions.
        steps: number of states to return, over all environments.
        epsilon: probability of a random action.
        seeds: episode seeds, used in order; a surplus costs nothing, so pass a `range`.
        environments: number of episodes to play in parallel.
        keep_every: interval of kept steps, since consecutive states are nearly identical.
        begin: makes the passage of an episode from its seed; by default, episodes are undisturbed.

    Raises:
        InvalidInputError: a number is out of range, or there are too few seeds.
    """
    _check(steps=steps, environments=environments, keep_every=keep_every)
    kept: list[tuple[Observations, Observations]] = []
    rounds = math.ceil(steps / environments)
    stream = _walk(spec, q_function, epsilon, seeds, environments, begin)
    for index, step in zip(range(rounds * keep_every), stream, strict=False):
        if index % keep_every == 0:
            kept.append((step.observations, step.present))
    stream.close()
    arrived: Any = np.concatenate([seen for seen, _ in kept])[:steps]
    if begin is None:
        return States(arrived, arrived)
    present: Any = np.concatenate([there for _, there in kept])[:steps]
    return States(arrived, present)


def collect_transitions(
    spec: EnvironmentSpec,
    q_function: QFunction,
    steps: int,
    *,
    epsilon: float,
    seeds: Sequence[int],
    environments: int = 8,
    begin: Begin | None = None,
) -> Transitions:
    """Collects `steps` transitions of ε-greedy play; for the rest see `collect_states`."""
    _check(steps=steps, environments=environments)
    rounds = math.ceil(steps / environments)
    stream = _walk(spec, q_function, epsilon, seeds, environments, begin)
    played = [step for _, step in zip(range(rounds), stream, strict=False)]
    stream.close()

    def join(name: str) -> Any:
        return np.concatenate([getattr(step, name) for step in played])[:steps]

    return Transitions(*map(join, TRANSITION_FIELDS))


def collect_calibration(
    spec: EnvironmentSpec,
    observation: ObservationSpec,
    q_function: QFunction,
    states: int,
    *,
    epsilon: float = 0.05,
    seed_offset: int = 0,
) -> CalibrationSet:
    """Collects states in windows of consecutive steps, spread evenly over several episodes.

    Consecutive frame stacks share all but one frame, so a window of 8 states of 4 frames needs 11
    frames rather than 32; identical frames (a ball waiting to be served) are stored once. Without a
    frame stack, a window is a single state.

    Args:
        spec: the environment.
        observation: layout of its observations.
        q_function: the full policy; its Q-values are stored with the states.
        states: number of states.
        epsilon: probability of a random action.
        seed_offset: offset of the first seed in the collection range.

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
    # Environments take their windows at different times, to cover different phases of play.
    shift = [slot * period // count for slot in range(count)]
    for index, step in enumerate(stream):
        for slot in range(count):
            if (index + shift[slot]) % period < window and len(rows) < states:
                rows.append(store.add(step.present[slot]))
                q_values.append(step.q_values[slot])
        if len(rows) == states:
            break
    stream.close()
    return CalibrationSet(store.frames(), np.stack(rows), np.stack(q_values).astype(np.float32))


class _FrameStore:
    """Stores each frame once, keyed by content; an all-zero frame of a stack is padding."""

    def __init__(self, observation: ObservationSpec) -> None:
        self._observation = observation
        self._places: dict[bytes, int] = {}
        self._frames: list[npt.NDArray[Any]] = []

    def add(self, state: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """Stores the frames of a state and returns their indices, oldest first."""
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
        """All frames, `(frames, *frame)`; a single frame of zeros if there are none."""
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
    begin: Begin | None = None,
) -> Generator[_Step, None, None]:
    """Plays indefinitely; close the iterator to free the environments."""
    if not 0.0 <= epsilon <= 1.0:
        raise InvalidInputError("epsilon", "a number from 0 to 1", str(epsilon))
    unused = iter(seeds)
    vector = VectorEnvironment(spec, environments)
    try:
        first = [_next(unused, len(seeds)) for _ in range(environments)]
        generators = [exploration_generator(seed) for seed in first]
        passages = [begin(seed) if begin else None for seed in first]
        present = vector.start(first)
        arrived = arriving(passages, present)
        while True:
            q_values = q_function(arrived)
            actions = q_values.argmax(axis=1).astype(np.int64)
            for slot, generator in enumerate(generators):
                greedy = int(actions[slot])
                actions[slot] = choose_action(generator, greedy, q_values.shape[1], epsilon)
            result = vector.step(taken(passages, actions))
            following = arriving(passages, result.observations)
            yield _Step(
                arrived,
                actions,
                result.rewards,
                following,
                result.terminated,
                present,
                q_values,
            )
            present, arrived = result.observations, following
            if result.ended.any():
                fresh = {int(s): _next(unused, len(seeds)) for s in np.flatnonzero(result.ended)}
                present = vector.restart(result.ended, list(fresh.values()))
                for slot, seed in fresh.items():
                    generators[slot] = exploration_generator(seed)
                    passages[slot] = begin(seed) if begin else None
                arrived = _pass_first(passages, present, following, list(fresh))
    finally:
        vector.close()


def _pass_first(
    passages: Sequence[Passage | None],
    present: Observations,
    arrived: Observations,
    slots: Sequence[int],
) -> Observations:
    """The observations that arrive, after new episodes have begun in some slots."""
    first: Any = arrived.copy()
    for slot in slots:
        way = passages[slot]
        first[slot] = present[slot] if way is None else way.observe(present[slot])
    return first  # type: ignore[no-any-return]


def _next(seeds: Iterator[int], count: int) -> int:
    seed = next(seeds, None)
    if seed is None:
        raise InvalidInputError("seeds", "enough seeds for the number of steps", f"{count} seeds")
    return seed


def _check(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise InvalidInputError(name, "at least 1", str(value))
