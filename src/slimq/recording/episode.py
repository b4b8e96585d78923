"""Episodes to be shown: played with the protocol of `slimq evaluate`, then replayed with pictures.

An episode is played twice. The first time gives its length and the range of its Q-values, so that
their scale can stay the same over the whole video; the second time takes the same actions in an
environment that renders, and must give the same return.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import EnvironmentFailure, InvalidInputError
from slimq.core.qfunction import QFunction, QValues
from slimq.core.seeds import COLLECTION, HELD_OUT, SELECTION
from slimq.environments.rendering import Picture, Screen, open_screen
from slimq.environments.rollout import Begin, StepTrace, play_episodes, taken

RANGES = (HELD_OUT, SELECTION, COLLECTION)


@dataclass(frozen=True)
class Played:
    """One variant's episode.

    Attributes:
        variant: its name.
        q_values: `(steps, actions)`.
        actions: `(steps,)`, the actions chosen, exploratory ones included.
        return_: undiscounted sum of rewards.
        terminated: whether the environment ended it; False if a step limit did.
    """

    variant: str
    q_values: QValues
    actions: npt.NDArray[np.int64]
    return_: float
    terminated: bool

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def greedy(self) -> npt.NDArray[np.int64]:
        """The action with the largest Q-value, `(steps,)`."""
        best: npt.NDArray[np.int64] = self.q_values.argmax(axis=1)
        return best


@dataclass(frozen=True)
class Moment:
    """What one panel shows: a step of an episode, or its end.

    Attributes:
        picture: what the environment shows.
        step: index of the step, from 0; the length of the episode at its end.
        return_: sum of the rewards until now.
        ended: whether the episode has ended.
    """

    picture: Picture
    step: int
    return_: float
    ended: bool


def check_seed(seed: int) -> str:
    """The name of the range that a seed is in.

    Raises:
        InvalidInputError: it is in none.
    """
    for known in RANGES:
        if seed in known:
            return known.name
    listing = ", ".join(f"{r.start} to {r.start + r.size - 1} ({r.name})" for r in RANGES)
    raise InvalidInputError("--seed", f"a seed within {listing}", str(seed))


def play_variant(
    spec: EnvironmentSpec,
    variant: str,
    q_function: QFunction,
    seed: int,
    *,
    epsilon: float,
    begin: Begin | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Played:
    """Plays one episode and keeps its Q-values and actions.

    Raises:
        EnvironmentFailure: the environment breaks its contract.
    """
    q_values: list[QValues] = []
    actions: list[int] = []

    def keep(trace: StepTrace, /) -> None:
        q_values.append(trace.q_values[0].copy())
        actions.append(int(trace.actions[0]))
        on_step()

    (episode,) = play_episodes(
        spec,
        q_function,
        [seed],
        epsilon=epsilon,
        environments=1,
        threads=1,
        on_step=keep,
        begin=begin,
    )
    chosen = np.array(actions, dtype=np.int64)
    return Played(variant, np.stack(q_values), chosen, episode.return_, episode.terminated)


def disagreement(episodes: Sequence[Played]) -> npt.NDArray[np.bool_]:
    """Whether the greedy actions differ among the episodes that still run, for each step."""
    length = max(map(len, episodes))
    greedy = np.full((len(episodes), length), -1, dtype=np.int64)
    for row, episode in zip(greedy, episodes, strict=True):
        row[: len(episode)] = episode.greedy
    most = greedy.max(axis=0)
    differs: npt.NDArray[np.bool_] = ((greedy != most) & (greedy >= 0)).any(axis=0)
    return differs


def replay(
    spec: EnvironmentSpec,
    episodes: Sequence[Played],
    seed: int,
    *,
    begin: Begin | None = None,
) -> Generator[tuple[Moment, ...], None, None]:
    """Plays episodes again with pictures: one moment per episode for each step, and for the end.

    Raises:
        InvalidInputError: the environment does not render.
        EnvironmentFailure: an episode gives another return than before.
    """
    with contextlib.ExitStack() as stack:
        replays = []
        for episode in episodes:
            screen = open_screen(spec)
            stack.callback(screen.close)
            replays.append(_replay(screen, spec, episode, seed, begin))
        for _ in range(max(map(len, episodes)) + 1):
            yield tuple(next(moments) for moments in replays)


def screen_fps(spec: EnvironmentSpec) -> float:
    """The pictures per second at which an environment is meant to be seen.

    Raises:
        InvalidInputError: the environment does not render.
        MissingExtraError: it needs a library that is not installed.
    """
    screen = open_screen(spec)
    try:
        screen.restart(HELD_OUT.start)
        screen.picture()
        return screen.fps
    finally:
        screen.close()


def _replay(
    screen: Screen, spec: EnvironmentSpec, episode: Played, seed: int, begin: Begin | None
) -> Iterator[Moment]:
    """Yields the moments of an episode, the last one forever."""
    screen.restart(seed)
    passage = begin(seed) if begin else None
    total = 0.0
    for step, action in enumerate(episode.actions):
        yield Moment(screen.picture(), step, total, ended=False)
        total += screen.step(int(taken([passage], np.array([action]))[0]))
    if total != episode.return_:
        place = f"episode of seed {seed}, replayed"
        problem = f"expected {episode.return_:g} as before, received {total:g}"
        raise EnvironmentFailure(spec.id, place, "return", problem)
    last = Moment(screen.picture(), len(episode), total, ended=True)
    while True:
        yield last
