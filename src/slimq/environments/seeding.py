"""Checks that an episode depends only on its seed and its actions.

Everything relies on this: variants are compared on the same episodes, and training resumes by
replaying its episodes.
"""

from __future__ import annotations

import operator

import numpy as np
import numpy.typing as npt

from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import EnvironmentFailure
from slimq.environments.guarded import GuardedEnvironment, Outcome

STEPS = 20
"""Number of steps of each episode that are played twice."""
SEEDS = (0, 1)
_NAMES = ("observation", "reward", "terminated", "truncated")
_HINT = (
    "differs when the same seed and actions are played again; reset(seed=...) must set the "
    "environment's whole state, and its random numbers must come from self.np_random"
)


def check_seeding(spec: EnvironmentSpec, *, steps: int = STEPS) -> None:
    """Plays the first steps of two episodes twice, in turn, and compares them.

    Atari games with preprocessing are not checked: their emulator is seeded.

    Args:
        spec: the environment.
        steps: steps of each episode.

    Raises:
        EnvironmentFailure: an episode differs when it is played again, or the environment fails
            otherwise.
        InvalidInputError: the environment is unknown, or its spaces are not supported.
    """
    if spec.preprocessing is not None:
        return
    member = GuardedEnvironment(spec)
    try:
        first = [_play(member, seed, steps) for seed in SEEDS]
        for seed, expected in zip(SEEDS, first, strict=True):
            _compare(spec, seed, expected, _play(member, seed, steps))
    except BaseException:
        member.abandon()
        raise
    member.close()


Played = tuple[npt.NDArray[np.generic], list[Outcome]]


def _play(member: GuardedEnvironment, seed: int, steps: int) -> Played:
    choices = np.random.default_rng(seed)
    started = member.reset(seed)
    outcomes: list[Outcome] = []
    for _ in range(steps):
        outcome = member.step(int(choices.integers(len(member.actions))))
        outcomes.append(outcome)
        if outcome[2] or outcome[3]:
            break
    return started, outcomes


def _compare(spec: EnvironmentSpec, seed: int, expected: Played, found: Played) -> None:
    place = f"episode of seed {seed}"
    if not np.array_equal(expected[0], found[0]):
        raise EnvironmentFailure(spec.id, f"{place}, reset", _NAMES[0], _HINT)
    for index, (before, now) in enumerate(zip(expected[1], found[1], strict=False)):
        equal = (np.array_equal(before[0], now[0]), *map(operator.eq, before[1:], now[1:]))
        if not all(equal):
            name = _NAMES[equal.index(False)]
            raise EnvironmentFailure(spec.id, f"{place}, step {index}", name, _HINT)
