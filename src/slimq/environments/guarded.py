"""One environment, whose every result is checked before anything learns from it or acts on it.

Every fault is an `EnvironmentFailure` that names the episode's seed, the step and the value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import gymnasium
import numpy as np
import numpy.typing as npt

from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import EnvironmentFailure, ObservationError
from slimq.core.observation import ObservationSpec
from slimq.environments.foreign import explain
from slimq.environments.make import action_range, check_step_limit, make_single, step_limit
from slimq.environments.spaces import Encoder, layout
from slimq.environments.wrappers import frame_stack

Outcome = tuple[npt.NDArray[Any], float, bool, bool]
"""Observation, reward, terminated, truncated."""
_MAX_REWARD = float(np.finfo(np.float32).max)


class GuardedEnvironment:
    """One environment, with observations in their flat layout and actions counted from 0.

    Attributes:
        observation: layout of its observations.
        actions: the environment's own numbers of its actions.
        step_limit: its own limit of steps per episode; None if it has none.
    """

    def __init__(self, spec: EnvironmentSpec) -> None:
        """Makes the environment.

        Raises:
            InvalidInputError: it is unknown, its spaces are unsupported, or its own step limit is
                below the specification's.
            EnvironmentFailure: it cannot be made.
        """
        self.spec = spec
        self.env = make_single(spec)
        self._seed: int | None = None
        self._step = 0
        self._failed = False
        try:
            self.actions = action_range(spec, self.env)
            self.observation = observation_of(spec, self.env)
            self.step_limit = step_limit(self.env)
            check_step_limit(spec, self.step_limit)
        except BaseException:
            self._failed = True
            self.close()
            raise
        self._encoder = Encoder(self.env.observation_space, self.observation)
        space = self.env.action_space
        self._number = space.dtype.type if isinstance(space, gymnasium.spaces.Discrete) else int

    def reset(self, seed: int) -> npt.NDArray[Any]:
        """Starts the episode of a seed; returns the first observation, `observation.shape`."""
        self._seed, self._step = seed, -1
        try:
            answer = self.env.reset(seed=seed)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._fail("reset()", explain(error), error)
        if not isinstance(answer, tuple) or len(answer) != 2:
            self._fail("reset()", f"expected (observation, info), received {_form(answer)}")
        observation, info = answer
        if not isinstance(info, Mapping):
            self._fail("info", f"expected a dictionary, received a {type(info).__name__}")
        encoded = self._encode(observation)
        self._step = 0
        return encoded

    def step(self, action: int) -> Outcome:
        """Takes an action, counted from 0; returns its outcome."""
        try:
            answer = self.env.step(self._number(self.actions.start + action))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._fail("step()", explain(error), error)
        if not isinstance(answer, tuple) or len(answer) != 5:
            expected = "expected (observation, reward, terminated, truncated, info)"
            self._fail("step()", f"{expected}, received {_form(answer)}")
        observation, reward, terminated, truncated, info = answer
        if not isinstance(info, Mapping):
            self._fail("info", f"expected a dictionary, received a {type(info).__name__}")
        outcome = (
            self._encode(observation),
            self._reward(reward),
            self._flag("terminated", terminated),
            self._flag("truncated", truncated),
        )
        self._step += 1
        return outcome

    def close(self) -> None:
        """Frees the environment; after an earlier failure, a further one is not reported."""
        try:
            self.env.close()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if not self._failed:
                self._failed = True
                raise EnvironmentFailure(
                    self.spec.id, "close", "close()", explain(error)
                ) from error

    def abandon(self) -> None:
        """Frees the environment after a failure elsewhere, and ignores its exceptions."""
        self._failed = True
        self.close()

    def _encode(self, value: Any) -> npt.NDArray[Any]:
        try:
            return self._encoder.encode(value)
        except ObservationError as error:
            whole = error.field.startswith("observation") and self.observation.parts is None
            field = error.field if whole else f"observation {error.field!r}"
            self._fail(field, f"expected {error.expected}, received {error.received}", error)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._fail("observation", explain(error), error)

    def _reward(self, value: Any) -> float:
        try:
            if isinstance(value, (str, bytes)) or getattr(value, "shape", ()) not in ((), None):
                raise TypeError
            reward = float(value)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._fail("reward", f"expected a number, received {_short(value)}", error)
        if not math.isfinite(reward) or abs(reward) > _MAX_REWARD:
            self._fail("reward", f"expected a finite float32, received {reward:g}")
        return reward

    def _flag(self, name: str, value: Any) -> bool:
        if isinstance(value, np.ndarray) and value.shape == ():
            value = value[()]
        if not isinstance(value, (bool, np.bool_)):
            self._fail(name, f"expected a bool, received {_short(value)}")
        return bool(value)

    def _fail(self, field: str, problem: str, error: BaseException | None = None) -> NoReturn:
        self._failed = True
        what = "reset" if self._step < 0 else f"step {self._step}"
        place = f"episode of seed {self._seed}, {what}"
        raise EnvironmentFailure(self.spec.id, place, field, problem) from error


def observation_of(spec: EnvironmentSpec, env: gymnasium.Env[Any, Any]) -> ObservationSpec:
    """The layout of an environment's observations, with the stack of frames that it keeps.

    Raises:
        InvalidInputError: its observation space is not supported.
    """
    observation = layout(env.observation_space, spec.id)
    stack = frame_stack(env) if observation.parts is None else None
    return observation.model_copy(update={"stack": stack}) if stack else observation


def _form(answer: Any) -> str:
    if isinstance(answer, tuple):
        former = ", the form of gym before 0.26" if len(answer) == 4 else ""
        return f"a tuple of {len(answer)}{former}"
    return f"a {type(answer).__name__}"


def _short(value: Any) -> str:
    """A value on one line, which third-party code formats, too."""
    try:
        text = "".join(repr(value).splitlines()[:1])
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        text = f"one whose repr raises {type(error).__name__}"
    shown = text if len(text) <= 60 else text[:59] + "…"
    return f"{shown} ({type(value).__name__})"
