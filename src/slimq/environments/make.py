"""Makes one environment from its specification: a gymnasium id, or the user's own function."""

from __future__ import annotations

import contextlib
import inspect
import re
from pathlib import Path
from typing import Any

import ale_py
import gymnasium

from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import EnvironmentFailure, InvalidInputError, first_line, suggestion
from slimq.environments.foreign import (
    FILE_REFERENCE,
    Reference,
    defined_names,
    explain,
    find_attribute,
    foreign_line,
    guarded,
    load,
    load_module,
    missing_dependency,
)
from slimq.environments.minatar import repair
from slimq.environments.wrappers import wrap

Env = gymnasium.Env[Any, Any]

CREATION = "creation"
_VERSIONED = re.compile(r".+-v\d+")


def make_single(spec: EnvironmentSpec) -> Env:
    """Makes the environment with its wrappers, without Atari preprocessing and normalization.

    Raises:
        InvalidInputError: an unknown environment or wrapper, or arguments that it does not take.
        MissingExtraError: it needs a library that is not installed.
        EnvironmentFailure: the environment's code raises an exception, or returns no environment.
    """
    env = repair(_create(spec))
    try:
        wrapped = wrap(env, spec)
        for name in ("observation_space", "action_space"):
            _check_space(spec, wrapped, name)
    except BaseException:
        with contextlib.suppress(Exception):
            env.close()
        raise
    return wrapped


def step_limit(env: Env) -> int | None:
    """The environment's own limit of steps per episode; None if it has none."""
    limits = []
    inner: Any = env
    while isinstance(inner, gymnasium.Wrapper):
        if isinstance(inner, gymnasium.wrappers.TimeLimit):
            limits.append(int(inner._max_episode_steps))
        inner = inner.env
    return min(limits, default=None)


def check_step_limit(spec: EnvironmentSpec, own: int | None) -> None:
    """Checks that the environment's own step limit does not override the specification's.

    Raises:
        InvalidInputError: the specification's limit is above the environment's own.
    """
    if own is None or spec.max_episode_steps is None or spec.max_episode_steps <= own:
        return
    remedy = "kwargs.max_episode_steps" if _VERSIONED.fullmatch(spec.id) else "its own code"
    raise InvalidInputError(
        "environment.max_episode_steps",
        f"at most {own}, the limit of {spec.id} itself, which {remedy} can raise",
        str(spec.max_episode_steps),
    )


def action_range(spec: EnvironmentSpec, env: Env) -> range:
    """The environment's own numbers of its actions.

    Raises:
        InvalidInputError: its actions are not discrete.
    """
    space = env.action_space
    if not isinstance(space, gymnasium.spaces.Discrete):
        raise InvalidInputError("environment.id", "discrete actions", f"{spec.id}: {space}")
    return range(int(space.start), int(space.start + space.n))


def _create(spec: EnvironmentSpec) -> Env:
    gymnasium.register_envs(ale_py)
    function = _find_function(spec)
    return _call(spec, function) if function else _make_registered(spec)


def _find_function(spec: EnvironmentSpec) -> Reference | None:
    """The function or class that makes the environment; None if gymnasium has its id."""
    if FILE_REFERENCE.fullmatch(spec.id):
        return _require_callable(load(spec.id, spec.id, "environment.id"), spec)
    if (file := spec.id.removesuffix(":")).endswith(".py"):
        hint = f"; {listing}" if (listing := defined_names(Path(file))) else ""
        raise InvalidInputError("environment.id", "FILE.py:NAME", repr(spec.id), hint)
    module_name, colon, name = spec.id.partition(":")
    if not colon:
        return None
    module = load_module(module_name, spec.id, "environment.id")
    if name in gymnasium.registry:
        return None
    found = find_attribute(module, name)
    if found is not None:
        return _require_callable(Reference(found), spec)
    # Packages made for gymnasium's former plugin system register their ids in this function.
    register = getattr(module, "register_envs", None)
    if callable(register):
        with guarded(spec.id, CREATION, "register_envs"):
            register()
    if name in gymnasium.registry or _VERSIONED.fullmatch(name):
        return None
    names = [known for known in vars(module) if not known.startswith("_")]
    expected = f"an id that {module_name} registers, or a function that it defines"
    received = repr(name) + suggestion(name, [*names, *gymnasium.registry])
    raise InvalidInputError("environment.id", expected, received)


def _require_callable(reference: Reference, spec: EnvironmentSpec) -> Reference:
    if not callable(reference.target):
        received = f"{spec.id}, a {type(reference.target).__name__}"
        raise InvalidInputError("environment.id", "a function or a class", received)
    return reference


def _call(spec: EnvironmentSpec, reference: Reference) -> Env:
    arguments = dict[str, Any](spec.kwargs)
    try:
        inspect.signature(reference.target).bind(**arguments)
    except TypeError as error:
        expected = f"arguments that {spec.id} takes"
        raise InvalidInputError("environment.kwargs", expected, str(error)) from error
    except ValueError:
        pass
    with guarded(spec.id, CREATION, "constructor"), reference.importable():
        env = reference.target(**arguments)
    if not isinstance(env, gymnasium.Env):
        problem = f"expected a gymnasium.Env, received a {type(env).__name__}"
        raise EnvironmentFailure(spec.id, CREATION, "return value", problem)
    return env


def _make_registered(spec: EnvironmentSpec) -> Env:
    name = spec.id.partition(":")[2] or spec.id
    # Gymnasium's checks are fewer than ours, and end in assertions and warnings.
    arguments = {"disable_env_checker": True} | dict[str, Any](spec.kwargs)
    try:
        return gymnasium.make(name, **arguments)
    except gymnasium.error.DependencyNotInstalled as error:
        raise missing_dependency(error, "environment.id") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if foreign_line(error) is not None:
            raise EnvironmentFailure(spec.id, CREATION, "constructor", explain(error)) from error
        if isinstance(error, gymnasium.error.Error):
            received = f"{spec.id}: {first_line(error)}"
            raise InvalidInputError("environment.id", "a gymnasium id", received) from error
        field = "environment.kwargs" if spec.kwargs else "environment.id"
        expected = f"arguments that {spec.id} takes" if spec.kwargs else "a gymnasium id"
        raise InvalidInputError(field, expected, f"{spec.id}: {explain(error)}") from error


def _check_space(spec: EnvironmentSpec, env: Env, name: str) -> None:
    with guarded(spec.id, CREATION, name):
        space = getattr(env, name)
    if not isinstance(space, gymnasium.Space):
        problem = f"expected a gymnasium space, received a {type(space).__name__}"
        raise EnvironmentFailure(spec.id, CREATION, name, problem)
