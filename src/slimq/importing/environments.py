"""Environments that files of other programs name.

An environment may be code: `FILE.py:function` and `module:Id` are imported when it is made. What a
file names is used only if it is an id that gymnasium or ALE has registered.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

import ale_py
import gymnasium
from pydantic import ValidationError

from slimq.core.environment import AtariPreprocessing, EnvironmentSpec
from slimq.core.errors import InvalidInputError

ATARI = re.compile(r"(?:ALE/)?([A-Za-z0-9]+?)(?:NoFrameskip-v\d|-v5)")
KEYS = ("env_id", "env")
"""Arguments in which training scripts keep the environment's id."""
MAX_LENGTH = 256


def environment_of(arguments: Any) -> EnvironmentSpec | None:
    """The environment that a training script's arguments name; None if they name none."""
    if not isinstance(arguments, Mapping):
        return None
    named = (arguments.get(key) for key in KEYS)
    return named_environment(next((value for value in named if isinstance(value, str)), ""))


def named_environment(name: str) -> EnvironmentSpec | None:
    """The environment of an id, with the frames of Mnih et al. (2015) for an Atari game.

    `PongNoFrameskip-v4` with the usual wrappers is `ALE/Pong-v5` with slimq's own: both skip four
    frames, have no sticky actions and stack four frames of 84 by 84 pixels.
    """
    atari = ATARI.fullmatch(name)
    if atari is not None and ("NoFrameskip" in name or name.startswith("ALE/")):
        preprocessing = AtariPreprocessing(fire_reset=True)
        return EnvironmentSpec(id=f"ALE/{atari[1]}-v5", preprocessing=preprocessing)
    try:
        return EnvironmentSpec(id=name)
    except ValidationError:
        return None


def check_registered(environment: EnvironmentSpec) -> None:
    """Checks that an environment that a file names can be made without code that the file names.

    Raises:
        InvalidInputError: it is code, or not a registered id.
    """
    gymnasium.register_envs(ale_py)
    name = environment.id
    if ":" not in name and name in gymnasium.registry:
        return
    shown = shlex.quote(name.encode("unicode_escape").decode("ascii"))
    is_code = ":" in name
    problem = "is code" if is_code else "gymnasium has not registered"
    option = f"--env {shown}" if is_code else f"--env MODULE:{shown}"
    received = f"nothing, and the file names the environment {shown}, which {problem}"
    raise InvalidInputError(
        "--env", "an environment to play in", received, f": give {option} if you trust it"
    )
