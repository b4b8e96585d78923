"""Plays episodes with anything that gives Q-values, ε-greedily, one seed per episode.

An episode depends on its seed, on ε and on the Q-values alone: not on how many episodes are played
beside it, nor on their order. Each step draws `random()` from the episode's own generator and,
where that is below ε, an action with `integers(actions)`; the client that plays over HTTP draws
alike.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

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
        seed: where the episode and its exploration started.
        return_: sum of the rewards, undiscounted.
        length: agent steps.
        trajectory: sha256 of the actions, as little-endian 32-bit integers, in hexadecimal.
        terminated: whether the environment ended it; False where the step cap did.
    """

    seed: int
    return_: float
    length: int
    trajectory: str
    terminated: bool


@dataclass(frozen=True)
class StepTrace:
    """One step of the episodes that are being played, `k` of them.

    Attributes:
        observations: `(k, *shape)`, on which the actions were chosen.
        q_values: `(k, actions)`.
        actions: `(k,)`, as taken, explored ones included.
        seeds: `(k,)`, the episodes.
        steps: `(k,)`, the index of this step in its episode, from 0.
    """

    observations: Observations
    q_values: QValues
    actions: npt.NDArray[np.int64]
    seeds: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]


@dataclass
class _Running:
    seed: int
    generator: np.random.Generator
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
    """The greedy action, or with probability `epsilon` any of `actions`, as the episode draws."""
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
) -> Iterator[Episode]:
    """Plays one episode for each seed and yields each as it ends.

    Args:
        spec: the environment.
        q_function: sees only the observations of episodes that are being played, in one batch.
        seeds: of the episodes.
        epsilon: probability of a uniformly random action.
        environments: how many episodes to play side by side.
        threads: threads that step Atari games, 0 for one per core.
        on_step: called after each choice of actions, before they are taken.

    Raises:
        InvalidInputError: `epsilon` or `environments` is out of range, or the environment unknown.
    """
    if not 0.0 <= epsilon <= 1.0:
        raise InvalidInputError("epsilon", "a number from 0 to 1", str(epsilon))
    if environments < 1:
        raise InvalidInputError("environments", "a number from 1 on", str(environments))
    if not seeds:
        return
    count = min(environments, len(seeds))
    vector = VectorEnvironment(spec, count, threads)
    try:
        yield from _play(vector, q_function, seeds, epsilon, on_step)
    finally:
        vector.close()


def random_returns(spec: EnvironmentSpec, actions: int, seeds: Sequence[int]) -> list[float]:
    """The return of uniformly random actions, one episode per seed, in the order of the seeds."""

    def indifferent(observations: Observations, /) -> QValues:
        return np.zeros((len(observations), actions), dtype=np.float32)

    returns = {e.seed: e.return_ for e in play_episodes(spec, indifferent, seeds, epsilon=1.0)}
    return [returns[seed] for seed in seeds]


def _play(
    vector: VectorEnvironment,
    q_function: QFunction,
    seeds: Sequence[int],
    epsilon: float,
    on_step: Callable[[StepTrace], None] | None,
) -> Iterator[Episode]:
    queue = deque(seeds)
    slots: list[_Running | None] = [_begin(queue.popleft()) for _ in range(vector.count)]
    parked = list(seeds[: vector.count])
    observations = vector.start(parked)
    while True:
        active = [index for index, slot in enumerate(slots) if slot is not None]
        if not active:
            return
        actions = _act(slots, active, observations, q_function, epsilon, on_step)
        result = vector.step(actions)
        ended = _account(slots, active, result)
        yield from ended.values()
        # An environment must not be stepped past its end: a slot without a further episode goes
        # back to the start of its last one, where nobody looks at it.
        observations = result.observations
        if result.ended.any():
            for index in np.flatnonzero(result.ended):
                if index in ended and queue:
                    parked[index] = queue.popleft()
                    slots[index] = _begin(parked[index])
            restarted = [parked[index] for index in np.flatnonzero(result.ended)]
            observations = vector.restart(result.ended, restarted)


def _begin(seed: int) -> _Running:
    return _Running(seed, exploration_generator(seed))


def _act(
    slots: list[_Running | None],
    active: list[int],
    observations: Observations,
    q_function: QFunction,
    epsilon: float,
    on_step: Callable[[StepTrace], None] | None,
) -> npt.NDArray[np.int64]:
    seen = observations if len(active) == len(slots) else observations[active]
    q_values = q_function(seen)
    greedy = q_values.argmax(axis=1)
    running = [slot for slot in slots if slot is not None]
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
    actions[active] = chosen
    return actions


def _account(
    slots: list[_Running | None], active: list[int], result: StepResult
) -> dict[int, Episode]:
    """Adds the rewards and takes ended episodes out of their slots."""
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
