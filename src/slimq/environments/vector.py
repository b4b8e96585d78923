"""Vectorized environments in which each environment is reset explicitly.

Every episode starts from its own seed, chosen by the caller, and is the same for any number of
parallel environments. There is no autoreset: the observation of an episode's last step is the
terminal one, and no dummy transition has to be skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import ale_py
import gymnasium
import numpy as np
import numpy.typing as npt
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from slimq.core.environment import AtariPreprocessing, EnvironmentSpec
from slimq.core.errors import InvalidInputError
from slimq.core.observation import FrameStack, Observations, ObservationSpec
from slimq.core.threads import thread_limit


@dataclass(frozen=True)
class StepResult:
    """The results of one step; every array has the leading axis `environments`."""

    observations: Observations
    rewards: npt.NDArray[np.float32]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]

    @property
    def ended(self) -> npt.NDArray[np.bool_]:
        """Whether each episode has ended, for either reason."""
        return self.terminated | self.truncated


class _VectorEnv(Protocol):
    @property
    def single_action_space(self) -> Any: ...

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]: ...

    def step(self, actions: Any, /) -> tuple[Any, Any, Any, Any, dict[str, Any]]: ...

    def close(self) -> None: ...


class VectorEnvironment:
    """`count` copies of one environment, stepped together but reset individually."""

    def __init__(self, spec: EnvironmentSpec, count: int, threads: int = 0) -> None:
        """Creates the environments.

        Args:
            spec: the environment.
            count: number of copies.
            threads: threads for stepping Atari games; 0 for those that `thread_limit` allows, or
                one per core.

        Raises:
            InvalidInputError: the environment is unknown, or its spaces are not supported.
        """
        self.spec, self.count = spec, count
        atari = spec.preprocessing
        self._env = _make_atari(spec, atari, count, threads) if atari else _make(spec, count)
        self._action_start = int(self._env.single_action_space.start)
        self._atari = atari is not None
        self._steps = np.zeros(count, dtype=np.int64)
        self._started = False

    def start(self, seeds: Sequence[int]) -> Observations:
        """Starts an episode in every environment; returns the observations `(count, *shape)`."""
        return self.restart(np.ones(self.count, dtype=np.bool_), seeds)

    def restart(self, mask: npt.NDArray[np.bool_], seeds: Sequence[int]) -> Observations:
        """Starts a new episode where `mask` is set; returns all observations.

        Args:
            mask: `(count,)`, the environments to restart.
            seeds: one per environment set in `mask`, in order.
        """
        options = {"reset_mask": mask.copy()} if self._started else None
        seed: Any = np.asarray(seeds, dtype=np.int64)
        if not self._atari:
            one_each = iter(seeds)
            seed = [next(one_each) if chosen else None for chosen in mask]
        observations, _ = self._env.reset(seed=seed, options=options)
        self._started = True
        self._steps[mask] = 0
        return self._own(observations)

    def step(self, actions: npt.NDArray[np.int64]) -> StepResult:
        """Takes one agent step in every environment.

        An environment whose episode has ended must be restarted before its next step.

        Args:
            actions: `(count,)`, indices from 0 on, whatever the environment's own numbers are.
        """
        taken = actions + self._action_start
        observations, rewards, terminated, truncated, _ = self._env.step(taken)
        self._steps += 1
        over = self._steps >= self.spec.max_episode_steps
        terminated = np.asarray(terminated, dtype=np.bool_)
        return StepResult(
            observations=self._own(observations),
            rewards=np.asarray(rewards, dtype=np.float32),
            terminated=terminated,
            truncated=(np.asarray(truncated, dtype=np.bool_) | over) & ~terminated,
        )

    def close(self) -> None:
        """Frees the environments."""
        self._env.close()

    def _own(self, observations: npt.NDArray[Any]) -> Observations:
        # ALE returns the same buffer at every step.
        if self._atari:
            return np.array(observations, dtype=np.uint8)
        return np.array(observations, dtype=np.float32)


class Description(NamedTuple):
    """An environment as a policy sees it.

    Attributes:
        observation: layout of an observation.
        actions: meaning of each action.
        action_start: the environment's number of the first one.
    """

    observation: ObservationSpec
    actions: list[str]
    action_start: int = 0


def describe(spec: EnvironmentSpec) -> Description:
    """Describes an environment.

    Raises:
        InvalidInputError: the environment is unknown, or its spaces are not supported.
    """
    env = make_single(spec)
    try:
        numbers = _actions(spec, env)
        if spec.preprocessing is not None:
            _atari_game(spec)
            meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
            observation = _atari_observation(spec.preprocessing)
            return Description(observation, [str(m).lower() for m in meanings], numbers.start)
        space = env.observation_space
        if not isinstance(space, gymnasium.spaces.Box):
            raise InvalidInputError("environment.id", "a Box observation space", str(space))
        observation = ObservationSpec(dtype="float32", shape=tuple(space.shape))
        return Description(observation, [str(number) for number in numbers], numbers.start)
    finally:
        env.close()


def make_single(spec: EnvironmentSpec) -> gymnasium.Env[Any, Any]:
    """Creates the bare gymnasium environment, without preprocessing.

    Raises:
        InvalidInputError: gymnasium does not know the environment or rejects its arguments.
    """
    gymnasium.register_envs(ale_py)
    try:
        return gymnasium.make(spec.id, **dict[str, Any](spec.kwargs))
    except (gymnasium.error.Error, TypeError) as error:
        raise InvalidInputError(
            "environment.id", "a gymnasium id", f"{spec.id}: {error}"
        ) from error


def _actions(spec: EnvironmentSpec, env: gymnasium.Env[Any, Any]) -> range:
    """The environment's numbers of its actions."""
    space = env.action_space
    if not isinstance(space, gymnasium.spaces.Discrete):
        raise InvalidInputError("environment.id", "discrete actions", f"{spec.id}: {space}")
    return range(int(space.start), int(space.start + space.n))


def _atari_game(spec: EnvironmentSpec) -> str:
    """ALE's name for the game of a registered environment."""
    registered = gymnasium.registry.get(spec.id)
    game: str | None = (registered.kwargs if registered else {}).get("game")
    if game is None:
        raise InvalidInputError("environment.preprocessing", "a registered Atari game", spec.id)
    return game


def _make(spec: EnvironmentSpec, count: int) -> _VectorEnv:
    make_single(spec).close()
    vector: _VectorEnv = gymnasium.make_vec(
        spec.id,
        num_envs=count,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
        **dict[str, Any](spec.kwargs),
    )
    return vector


def _make_atari(
    spec: EnvironmentSpec, atari: AtariPreprocessing, count: int, threads: int
) -> _VectorEnv:
    gymnasium.register_envs(ale_py)
    vector: _VectorEnv = AtariVectorEnv(
        _atari_game(spec),
        num_envs=count,
        num_threads=threads or thread_limit(),
        frameskip=atari.frame_skip,
        img_height=atari.size,
        img_width=atari.size,
        stack_num=atari.stack,
        noop_max=atari.noop_max,
        use_fire_reset=atari.fire_reset,
        repeat_action_probability=atari.sticky_actions,
        max_num_frames_per_episode=spec.max_episode_steps * atari.frame_skip,
        episodic_life=False,
        reward_clipping=False,
        **dict[str, Any](spec.kwargs),
    )
    return vector


def _atari_observation(atari: AtariPreprocessing) -> ObservationSpec:
    return ObservationSpec(
        dtype="uint8",
        shape=(atari.stack, atari.size, atari.size),
        low=0.0,
        high=255.0,
        stack=FrameStack(axis=0, count=atari.stack, padding="zero"),
    )
