"""Pictures of an episode that is played again by its seed and its actions.

The policy is not needed for it: what it saw may be preprocessed, its actions are the same.
"""

from __future__ import annotations

import warnings
from typing import Any, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt

from slimq.core.environment import AtariPreprocessing, EnvironmentSpec
from slimq.core.errors import EnvironmentFailure, InvalidInputError
from slimq.environments.atari import make_games
from slimq.environments.foreign import explain, missing_dependency
from slimq.environments.guarded import GuardedEnvironment

MODE = "rgb_array"
ATARI_SCREEN = (210, 160)
"""Height and width of Atari's own picture."""
ATARI_FPS = 60.0
DEFAULT_FPS = 10.0
"""For an environment that does not say how fast it is meant to be seen."""

Picture = npt.NDArray[np.uint8]
"""`(height, width, 3)`, RGB."""


class Screen(Protocol):
    """An environment that shows pictures.

    Attributes:
        fps: pictures per second at which it is meant to be seen, one per agent step.
    """

    fps: float

    def restart(self, seed: int) -> None:
        """Starts the episode of a seed."""
        ...

    def step(self, action: int) -> float:
        """Takes an action, counted from 0; returns the reward."""
        ...

    def picture(self) -> Picture:
        """What the environment shows now."""
        ...

    def close(self) -> None:
        """Frees the environment."""
        ...


def open_screen(spec: EnvironmentSpec) -> Screen:
    """Makes an environment that shows pictures.

    Raises:
        InvalidInputError: it cannot, or it is unknown.
        MissingExtraError: it needs a library that is not installed.
        EnvironmentFailure: it cannot be made.
    """
    atari = spec.preprocessing
    return RenderedEnvironment(spec) if atari is None else AtariScreen(spec, atari)


class AtariScreen:
    """A game in colour, beside the preprocessed one that the policy sees."""

    def __init__(self, spec: EnvironmentSpec, atari: AtariPreprocessing) -> None:
        self.fps = ATARI_FPS / atari.frame_skip
        height, width = ATARI_SCREEN
        frames = {"img_height": height, "img_width": width, "stack_num": 1, "grayscale": False}
        self._games = make_games(spec, atari, 1, 1, **frames)
        self._latest = np.zeros((*ATARI_SCREEN, 3), np.uint8)

    def restart(self, seed: int) -> None:
        """Starts the episode of a seed."""
        self._keep(self._games.reset(seed=np.array([seed], dtype=np.int64))[0])

    def step(self, action: int) -> float:
        """Takes an action; returns the reward."""
        observations, rewards, *_ = self._games.step(np.array([action], dtype=np.int64))
        self._keep(observations)
        return float(np.float32(rewards[0]))

    def picture(self) -> Picture:
        """The screen now."""
        return self._latest

    def close(self) -> None:
        """Frees the game."""
        self._games.close()

    def _keep(self, observations: npt.NDArray[Any]) -> None:
        # ALE returns the same buffer at every step.
        self._latest = np.array(observations[0, -1], dtype=np.uint8)


class RenderedEnvironment:
    """An environment of gymnasium, with the pictures of its `render` method."""

    def __init__(self, spec: EnvironmentSpec) -> None:
        """Makes the environment.

        Raises:
            InvalidInputError: it does not render, or is unknown.
        """
        self._spec = spec
        self._member = _make(spec)
        env = self._member.env
        self.fps = float(env.metadata.get("render_fps") or DEFAULT_FPS)
        if env.render_mode != MODE or MODE not in env.metadata.get("render_modes", ()):
            self._member.abandon()
            received = f"{spec.id}, which renders {_modes(env)}"
            raise InvalidInputError("policy", f"an environment that renders {MODE}", received)

    def restart(self, seed: int) -> None:
        """Starts the episode of a seed."""
        self._member.reset(seed)

    def step(self, action: int) -> float:
        """Takes an action, counted from 0; returns the reward."""
        return float(np.float32(self._member.step(action)[1]))

    def picture(self) -> Picture:
        """What the environment renders now.

        Raises:
            MissingExtraError: it needs a library that is not installed.
            EnvironmentFailure: it raises an exception, or returns no picture.
        """
        try:
            rendered = np.asarray(self._member.env.render())
        except gymnasium.error.DependencyNotInstalled as error:
            raise missing_dependency(error, "environment.id") from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise self._failure(explain(error)) from error
        if rendered.ndim != 3 or rendered.shape[2] != 3 or rendered.dtype.kind not in "uif":
            received = f"{rendered.dtype} of shape {rendered.shape}"
            raise self._failure(f"expected a picture (height, width, 3), received {received}")
        if rendered.dtype.kind == "f":
            rendered = np.clip(rendered * 255.0, 0, 255)
        return np.ascontiguousarray(rendered, dtype=np.uint8)

    def close(self) -> None:
        """Frees the environment."""
        self._member.close()

    def _failure(self, problem: str) -> EnvironmentFailure:
        return EnvironmentFailure(self._spec.id, "rendering", "render()", problem)


def _make(spec: EnvironmentSpec) -> GuardedEnvironment:
    rendering = spec.model_copy(update={"kwargs": {**spec.kwargs, "render_mode": MODE}})
    with warnings.catch_warnings():
        # gymnasium warns of a mode that an environment does not have; here it is refused.
        warnings.simplefilter("ignore")
        try:
            return GuardedEnvironment(rendering)
        except InvalidInputError as error:
            if error.field != "environment.kwargs":
                raise
        # A function of the user's own may take no render_mode and set one itself.
        return GuardedEnvironment(spec)


def _modes(env: gymnasium.Env[Any, Any]) -> str:
    modes = [str(mode) for mode in env.metadata.get("render_modes", ())]
    return ", ".join(modes) if modes else "nothing"
