"""Wrappers by name: gymnasium's own, and those of other modules and files.

NormalizeObservation is not applied: its running statistics would make an episode depend on earlier
ones. The network holds the statistics instead, so that observations stay unchanged everywhere, also
over HTTP.
"""

from __future__ import annotations

import inspect
from types import MappingProxyType
from typing import Any

import gymnasium
import numpy as np

from slimq.core.environment import EnvironmentSpec, WrapperSpec
from slimq.core.errors import (
    EnvironmentFailure,
    InvalidInputError,
    MissingExtraError,
    first_line,
    suggestion,
)
from slimq.core.observation import FrameStack
from slimq.environments.foreign import Reference, explain, load, missing_dependency
from slimq.environments.spaces import holds_zero, is_float_box

Env = gymnasium.Env[Any, Any]

NORMALIZE = "NormalizeObservation"
EPSILON = 1e-8
"""Added to the variance; gymnasium's default."""
MAX_FRAMES = 64


def is_normalized(spec: EnvironmentSpec) -> bool:
    """Whether the network normalizes observations."""
    return bool(spec.wrappers) and spec.wrappers[-1].name == NORMALIZE


def wrap(env: Env, spec: EnvironmentSpec) -> Env:
    """Applies the wrappers of a specification, the innermost first.

    Raises:
        InvalidInputError: a wrapper or an argument is unknown, or NormalizeObservation cannot be
            part of the network.
        MissingExtraError: a wrapper needs a library that is not installed.
        EnvironmentFailure: a wrapper raises an exception or does not return an environment.
    """
    if spec.wrappers and spec.preprocessing is not None:
        raise InvalidInputError(
            "environment.wrappers", "none in addition to preprocessing", spec.wrappers[0].name
        )
    for index, wrapper in enumerate(spec.wrappers):
        place = f"environment.wrappers[{index}]"
        if wrapper.name == NORMALIZE:
            _check_normalization(env, spec, index)
        else:
            env = _apply(env, wrapper, spec.id, place)
    return env


def frame_stack(env: Env) -> FrameStack | None:
    """The outermost wrapper's frame stack; None unless new frames alone can rebuild it."""
    if not isinstance(env, gymnasium.wrappers.FrameStackObservation):
        return None
    padded = env.padding_type == "zero" and holds_zero(env.env.observation_space)
    if not padded or env.stack_size > MAX_FRAMES:
        return None
    return FrameStack(axis=0, count=env.stack_size, padding="zero")


def stacks_images(env: Env) -> bool:
    """Whether the channels of an image are frames, along the first axis."""
    if not isinstance(env, gymnasium.wrappers.FrameStackObservation):
        return False
    return len(env.observation_space.shape or ()) == 3


def _check_normalization(env: Env, spec: EnvironmentSpec, index: int) -> None:
    place, wrapper = f"environment.wrappers[{index}]", spec.wrappers[index]
    if index < len(spec.wrappers) - 1:
        following = spec.wrappers[index + 1].name
        raise InvalidInputError(place, f"{NORMALIZE} as the last wrapper", f"{following} after it")
    if not is_float_box(env.observation_space):
        raise InvalidInputError(place, "a Box of floats to normalize", str(env.observation_space))
    if (wrapper.kwargs or {"epsilon": EPSILON}) != {"epsilon": EPSILON}:
        expected = f"no arguments of {NORMALIZE}; the network's epsilon is {EPSILON:g}"
        raise InvalidInputError(f"{place}.kwargs", expected, str(wrapper.kwargs))


def _apply(env: Env, wrapper: WrapperSpec, environment: str, place: str) -> Env:
    reference = _find(wrapper, environment, place)
    arguments = dict[str, Any](wrapper.kwargs)
    arguments = _convert_lists(reference.target, arguments, f"{place}.kwargs")
    if reference.target is gymnasium.wrappers.TransformObservation:
        arguments = _transformation(env, arguments, environment, place)
    try:
        inspect.signature(reference.target).bind(env, **arguments)
    except TypeError as error:
        received = f"{wrapper.name}: {error}"
        raise InvalidInputError(f"{place}.kwargs", "its arguments", received) from error
    except ValueError:
        pass
    try:
        with reference.importable():
            wrapped = reference.target(env, **arguments)
    except gymnasium.error.DependencyNotInstalled as error:
        raise missing_dependency(error, f"{place}.name") from error
    except ModuleNotFoundError as error:
        if error.name == "cv2":
            raise MissingExtraError("cv2", "images") from error
        raise EnvironmentFailure(environment, "creation", wrapper.name, explain(error)) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if _is_gymnasiums(reference.target):
            received = f"{wrapper.name}: {explain(error)}"
            raise InvalidInputError(place, "a wrapper that fits", received) from error
        raise EnvironmentFailure(environment, "creation", wrapper.name, explain(error)) from error
    if not isinstance(wrapped, gymnasium.Env):
        problem = f"expected a gymnasium.Env, received a {type(wrapped).__name__}"
        raise EnvironmentFailure(environment, "creation", wrapper.name, problem)
    return wrapped


def _convert_lists(target: Any, arguments: dict[str, Any], place: str) -> dict[str, Any]:
    """Converts lists to arrays where a wrapper declares them, and to tuples for gymnasium's own.

    JSON has neither, and some of gymnasium's wrappers accept nothing else.
    """
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        parameters = MappingProxyType({})
    converted = dict(arguments)
    for name, value in arguments.items():
        if not isinstance(value, list):
            continue
        if name in parameters and "ndarray" in str(parameters[name].annotation):
            try:
                converted[name] = np.array(value, np.float32)
            except (TypeError, ValueError) as error:
                expected = "numbers, in lists of equal lengths"
                raise InvalidInputError(f"{place}.{name}", expected, first_line(error)) from error
        elif _is_gymnasiums(target):
            converted[name] = tuple(value)
    return converted


def _find(wrapper: WrapperSpec, environment: str, place: str) -> Reference:
    if ":" in wrapper.name:
        reference = load(wrapper.name, environment, f"{place}.name")
        if not callable(reference.target):
            raise InvalidInputError(f"{place}.name", "a class or a function", wrapper.name)
        return reference
    try:
        # Some wrappers import optional libraries.
        found = getattr(gymnasium.wrappers, wrapper.name, None)
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        received = f"{wrapper.name}: {first_line(error)}"
        raise InvalidInputError(f"{place}.name", "an installed library", received) from error
    if not inspect.isclass(found) or not issubclass(found, gymnasium.Wrapper):
        expected = "a wrapper of gymnasium, `module:Class` or `FILE.py:Class`"
        received = repr(wrapper.name) + suggestion(wrapper.name, gymnasium.wrappers.__all__)
        raise InvalidInputError(f"{place}.name", expected, received)
    return Reference(found)


def _transformation(
    env: Env, arguments: dict[str, Any], environment: str, place: str
) -> dict[str, Any]:
    """Arguments of TransformObservation, with the function and the space loaded by name."""
    found = dict(arguments)
    found.setdefault("observation_space", None)
    function = found.get("func")
    if not isinstance(function, str):
        expected = 'func = "FILE.py:function" or "module:function"'
        raise InvalidInputError(f"{place}.kwargs.func", expected, repr(function))
    found["func"] = load(function, environment, f"{place}.kwargs.func").target
    if not callable(found["func"]):
        raise InvalidInputError(f"{place}.kwargs.func", "a function", function)
    if found["observation_space"] is not None:
        field = f"{place}.kwargs.observation_space"
        space = load(str(found["observation_space"]), environment, field).target
        if not isinstance(space, gymnasium.Space) and callable(space):
            try:
                space = space(env.observation_space)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise EnvironmentFailure(
                    environment, "creation", "observation_space", explain(error)
                ) from error
        if not isinstance(space, gymnasium.Space):
            expected = "a gymnasium space, or a function from the inner space to one"
            raise InvalidInputError(field, expected, f"a {type(space).__name__}")
        found["observation_space"] = space
    return found


def _is_gymnasiums(target: Any) -> bool:
    return str(getattr(target, "__module__", "")).partition(".")[0] == "gymnasium"
