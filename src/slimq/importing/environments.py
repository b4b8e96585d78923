"""Environments that files of other programs name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from slimq.core.environment import AtariPreprocessing, EnvironmentSpec

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
