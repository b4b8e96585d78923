"""Describes an environment for a policy and its training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from slimq.core.environment import AtariPreprocessing, EnvironmentSpec
from slimq.core.observation import ObservationSpec
from slimq.environments.atari import atari_game, atari_observation
from slimq.environments.guarded import GuardedEnvironment
from slimq.environments.make import make_single
from slimq.environments.wrappers import is_normalized, stacks_images


class Description(NamedTuple):
    """An environment as a policy sees it.

    Attributes:
        observation: layout of an observation.
        actions: meaning of each action.
        action_start: the environment's number of the first action.
    """

    observation: ObservationSpec
    actions: list[str]
    action_start: int = 0


@dataclass(frozen=True)
class Properties:
    """Properties of an environment that training needs besides its description.

    Attributes:
        description: the environment as a policy sees it.
        step_limit: its own limit of steps per episode; None if it has none.
        channels: position of an image's channels if they are stacked frames; otherwise None.
        normalized: whether the network normalizes observations.
    """

    description: Description
    step_limit: int | None
    channels: Literal["first"] | None
    normalized: bool


def describe(spec: EnvironmentSpec) -> Description:
    """Describes an environment.

    Raises:
        InvalidInputError: the environment is unknown, or its spaces are not supported.
        EnvironmentFailure: it cannot be made or closed.
    """
    return examine(spec).description


def examine(spec: EnvironmentSpec) -> Properties:
    """Describes an environment for training. Raises the errors of `describe`."""
    if spec.preprocessing is not None:
        return _examine_atari(spec, spec.preprocessing)
    member = GuardedEnvironment(spec)
    try:
        numbers = member.actions
        meanings = [str(number) for number in numbers]
        description = Description(member.observation, meanings, numbers.start)
        channels: Literal["first"] | None = "first" if stacks_images(member.env) else None
        found = Properties(description, member.step_limit, channels, is_normalized(spec))
    except BaseException:
        member.abandon()
        raise
    member.close()
    return found


def _examine_atari(spec: EnvironmentSpec, atari: AtariPreprocessing) -> Properties:
    env = make_single(spec)
    try:
        atari_game(spec)
        meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
    finally:
        env.close()
    observation = atari_observation(atari)
    description = Description(observation, [str(m).lower() for m in meanings], 0)
    return Properties(description, None, "first", normalized=False)
