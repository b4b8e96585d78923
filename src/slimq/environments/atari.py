"""Atari games with their preprocessing, stepped in parallel by ALE's own vector environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ale_py
import gymnasium
import numpy as np
import numpy.typing as npt
from ale_py.vector_env import AtariVectorEnv

from slimq.core.environment import DEFAULT_EPISODE_STEPS, AtariPreprocessing, EnvironmentSpec
from slimq.core.errors import InvalidInputError, first_line
from slimq.core.observation import FrameStack, Observations, ObservationSpec
from slimq.core.threads import thread_limit
from slimq.environments.results import StepResult


class AtariCopies:
    """`count` copies of a game, with the interface of `VectorEnvironment` without its step limit.

    Attributes:
        step_limit: None, since the games have no limit of their own.
        action_start: ALE's number of the first action.
    """

    step_limit: int | None = None
    action_start = 0

    def __init__(
        self, spec: EnvironmentSpec, atari: AtariPreprocessing, count: int, threads: int
    ) -> None:
        self._started = False
        self._env = make_games(spec, atari, count, threads)

    def restart(self, mask: npt.NDArray[np.bool_], seeds: Sequence[int]) -> Observations:
        """Starts a new episode where `mask` is set; returns all observations."""
        options = {"reset_mask": mask.copy()} if self._started else None
        observations, _ = self._env.reset(seed=np.asarray(seeds, dtype=np.int64), options=options)
        self._started = True
        return _own(observations)

    def step(self, actions: npt.NDArray[np.int64]) -> StepResult:
        """Takes one agent step in every game."""
        observations, rewards, terminated, truncated, _ = self._env.step(actions)
        return StepResult(
            observations=_own(observations),
            rewards=np.asarray(rewards, dtype=np.float32),
            terminated=np.asarray(terminated, dtype=np.bool_),
            truncated=np.asarray(truncated, dtype=np.bool_),
        )

    def close(self) -> None:
        """Frees the games."""
        self._env.close()


def make_games(
    spec: EnvironmentSpec, atari: AtariPreprocessing, count: int, threads: int, **picture: Any
) -> AtariVectorEnv:
    """Makes ALE's vector environment of a game.

    Args:
        spec: the environment.
        atari: its preprocessing.
        count: number of games.
        threads: threads for stepping them; 0 for those that `thread_limit` allows.
        **picture: arguments that change what the frames show, and not how the games go.

    Raises:
        InvalidInputError: it is not an Atari game, or has unknown arguments.
    """
    gymnasium.register_envs(ale_py)
    steps = spec.max_episode_steps or DEFAULT_EPISODE_STEPS
    game = atari_game(spec)
    frames = {"img_height": atari.size, "img_width": atari.size, "stack_num": atari.stack}
    try:
        return AtariVectorEnv(
            game,
            num_envs=count,
            num_threads=threads or thread_limit(),
            frameskip=atari.frame_skip,
            noop_max=atari.noop_max,
            use_fire_reset=atari.fire_reset,
            repeat_action_probability=atari.sticky_actions,
            max_num_frames_per_episode=steps * atari.frame_skip,
            episodic_life=False,
            reward_clipping=False,
            **{**frames, **picture},
            **dict[str, Any](spec.kwargs),
        )
    except TypeError as error:
        expected = "arguments of ALE's vector environment that preprocessing does not set"
        raise InvalidInputError("environment.kwargs", expected, first_line(error)) from error


def atari_game(spec: EnvironmentSpec) -> str:
    """ALE's name for the game of a registered environment.

    Raises:
        InvalidInputError: it is not an Atari game.
    """
    registered = gymnasium.registry.get(spec.id)
    game: str | None = (registered.kwargs if registered else {}).get("game")
    if game is None:
        raise InvalidInputError("environment.preprocessing", "a registered Atari game", spec.id)
    return game


def atari_observation(atari: AtariPreprocessing) -> ObservationSpec:
    """The layout of preprocessed frames."""
    return ObservationSpec(
        dtype="uint8",
        shape=(atari.stack, atari.size, atari.size),
        low=0.0,
        high=255.0,
        stack=FrameStack(axis=0, count=atari.stack, padding="zero"),
    )


def _own(observations: npt.NDArray[Any]) -> Observations:
    # ALE returns the same buffer at every step.
    return np.array(observations, dtype=np.uint8)
