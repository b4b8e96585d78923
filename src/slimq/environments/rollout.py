"""Plays ε-greedy episodes with any Q-function, one seed per episode.

An episode depends only on its seed, on ε and on the Q-values, not on the number or order of the
episodes played in parallel. Each step draws `random()` from the episode's own generator and, if it
is below ε, an action with `integers(actions)`; play over HTTP draws in the same way.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import InvalidInputError
from slimq.core.observation import Observations
from slimq.core.qfunction import QFunction, QValues
from slimq.core.seeds import exploration_generator
from slimq.environments.vector import StepResult, VectorEnvironment


@dataclass(frozen=True)
class Episode:
    """One finished episode.

    Attributes:
        seed: seed of the environment and of the exploration.
        return_: undiscounted sum of rewards.
        length: agent steps.
        trajectory: hexadecimal SHA-256 of the actions as little-endian 32-bit integers.
        terminated: whether the environment ended it; False if the step limit did.
    """

    seed: int
    return_: float
    length: int
    trajectory: str
    terminated: bool


@dataclass(frozen=True)
class StepTrace:
    """One step of the `k` episodes in progress.

    Attributes:
        observations: `(k, *shape)`, observations that the policy acted on.
        q_values: `(k, actions)`.
        actions: `(k,)`, the actions chosen, exploratory ones included.
        seeds: `(k,)`, the episodes' seeds.
        steps: `(k,)`, the index of this step in its episode, from 0.
    """

    observations: Observations
    q_values: QValues
    actions: npt.NDArray[np.int64]
    seeds: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]


class Passage(Protocol):
    """The link between an episode and the policy, such as `slimq.core.conditions.passage`."""

    def observe(self, observation: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The observation that arrives for the environment's next one, both of `shape`."""
        ...

    def act(self, action: int) -> int:
        """The action that the environment takes when the policy chooses `action`."""
        ...


Begin = Callable[[int], Passage | None]
"""Makes the passage of an episode from its seed; None for an undisturbed episode."""


def arriving(passages: Sequence[Passage | None], present: Observations) -> Observations:
    """The observations that arrive at the policy for the environments' own, `(k, *shape)`."""
    if all(passage is None for passage in passages):
        return present
    pairs = zip(passages, present, strict=True)
    arrived: Any = np.stack([seen if way is None else way.observe(seen) for way, seen in pairs])
    return arrived  # type: ignore[no-any-return]


def taken(
    passages: Sequence[Passage | None], chosen: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The actions that the environments take when the policy chooses `chosen`, `(k,)`."""
    if all(passage is None for passage in passages):
        return chosen
    pairs = zip(passages, chosen.tolist(), strict=True)
    return np.array([one if way is None else way.act(one) for way, one in pairs], dtype=np.int64)


@dataclass
class _Running:
    seed: int
    generator: np.random.Generator
    passage: Passage | None = None
    return_: float = 0.0
    actions: list[int] = field(default_factory=list)

    def choose(self, greedy: int, actions: int, epsilon: float) -> int:
        action = choose_action(self.generator, greedy, actions, epsilon)
        self.actions.append(action)
        return action

    def finish(self, *, terminated: bool) -> Episode:
        digest = hashlib.sha256(np.asarray(self.actions, dtype="<i4").tobytes()).hexdigest()
        return Episode(self.seed, self.return_, len(self.actions), digest, terminated)


def choose_action(generator: np.random.Generator, greedy: int, actions: int, epsilon: float) -> int:
    """Returns the greedy action or, with probability `epsilon`, a random one of `actions`."""
    return int(generator.integers(actions)) if generator.random() < epsilon else greedy


def play_episodes(
    spec: EnvironmentSpec,
    q_function: QFunction,
    seeds: Sequence[int],
    *,
    epsilon: float = 0.01,
    environments: int = 16,
    threads: int = 0,
    on_step: Callable[[StepTrace], None] | None = None,
    begin: Begin | None = None,
) -> Iterator[Episode]:
    """Plays one episode per seed and yields each as it ends.

    Args:
        spec: the environment.
        q_function: receives the observations of all episodes in progress, in one batch.
        seeds: one per episode.
        epsilon: probability of a uniformly random action.
        environments: number of episodes to play in parallel.
        threads: threads for stepping Atari games; 0 for `thread_limit`, or one per core if unset.
        on_step: called after the actions are chosen, before they are taken.
        begin: makes the passage of an episode from its seed; by default, episodes are undisturbed.

    Raises:
        InvalidInputError: `epsilon` or `environments` is out of range, or the environment is
            unknown.
    """
    if not 0.0 <= epsilon <= 1.0:
        raise InvalidInputError("epsilon", "a number from 0 to 1", str(epsilon))
    if environments < 1:
        raise InvalidInputError("environments", "at least 1", str(environments))
    if not seeds:
        return
    count = min(environments, len(seeds))
    vector = VectorEnvironment(spec, count, threads)
    try:
        yield from _play(vector, q_function, seeds, epsilon, on_step, begin)
    finally:
        vector.close()


def random_returns(spec: EnvironmentSpec, actions: int, seeds: Sequence[int]) -> list[float]:
    """Returns of a uniformly random policy, one episode per seed, in seed order."""

    def all_equal(observations: Observations, /) -> QValues:
        return np.zeros((len(observations), actions), dtype=np.float32)

    returns = {e.seed: e.return_ for e in play_episodes(spec, all_equal, seeds, epsilon=1.0)}
    return [returns[seed] for seed in seeds]


def _play(
    vector: VectorEnvironment,
    q_function: QFunction,
    seeds: Sequence[int],
    epsilon: float,
    on_step: Callable[[StepTrace], None] | None,
    begin: Begin | None,
) -> Iterator[Episode]:
    queue = deque(seeds)

    def start(seed: int) -> _Running:
        return _Running(seed, exploration_generator(seed), begin(seed) if begin else None)

    slots: list[_Running | None] = [start(queue.popleft()) for _ in range(vector.count)]
    parked = list(seeds[: vector.count])
    observations = vector.start(parked)
    while True:
        active = [index for index, slot in enumerate(slots) if slot is not None]
        if not active:
            return
        actions = _act(slots, active, observations, q_function, epsilon, on_step)
        result = vector.step(actions)
        ended = _collect_ended(slots, active, result)
        yield from ended.values()
        # An environment must not be stepped past the end of an episode: a slot with no episode left
        # restarts its last one, and the result is ignored.
        observations = result.observations
        if result.ended.any():
            for index in np.flatnonzero(result.ended):
                if index in ended and queue:
                    parked[index] = queue.popleft()
                    slots[index] = start(parked[index])
            restarted = [parked[index] for index in np.flatnonzero(result.ended)]
            observations = vector.restart(result.ended, restarted)


def _act(
    slots: list[_Running | None],
    active: list[int],
    observations: Observations,
    q_function: QFunction,
    epsilon: float,
    on_step: Callable[[StepTrace], None] | None,
) -> npt.NDArray[np.int64]:
    running = [slot for slot in slots if slot is not None]
    passages = [slot.passage for slot in running]
    seen = arriving(passages, observations if len(active) == len(slots) else observations[active])
    q_values = q_function(seen)
    greedy = q_values.argmax(axis=1)
    steps = np.array([len(slot.actions) for slot in running], dtype=np.int64)
    chosen = np.array(
        [
            slot.choose(int(best), q_values.shape[1], epsilon)
            for slot, best in zip(running, greedy, strict=True)
        ],
        dtype=np.int64,
    )
    if on_step is not None:
        played = np.array([slot.seed for slot in running], dtype=np.int64)
        on_step(StepTrace(seen, q_values, chosen, played, steps))
    actions = np.zeros(len(slots), dtype=np.int64)
    actions[active] = taken(passages, chosen)
    return actions


def _collect_ended(
    slots: list[_Running | None], active: list[int], result: StepResult
) -> dict[int, Episode]:
    """Adds the rewards and removes finished episodes from their slots."""
    ended: dict[int, Episode] = {}
    for index in active:
        slot = slots[index]
        if slot is None:
            continue
        slot.return_ += float(result.rewards[index])
        if result.ended[index]:
            ended[index] = slot.finish(terminated=bool(result.terminated[index]))
            slots[index] = None
    return ended
