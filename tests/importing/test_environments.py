from __future__ import annotations

from typing import Any

import pytest

from slimq.importing.environments import environment_of, named_environment


@pytest.mark.parametrize(
    ("name", "found", "frames"),
    [
        ("CartPole-v1", "CartPole-v1", False),
        ("PongNoFrameskip-v4", "ALE/Pong-v5", True),
        ("ALE/SpaceInvaders-v5", "ALE/SpaceInvaders-v5", True),
        ("own:Thing-v5", "own:Thing-v5", False),
        ("env.py:make", "env.py:make", False),
    ],
)
def test_atari_games_get_the_usual_frames(name: str, found: str, frames: bool) -> None:
    environment = named_environment(name)
    assert environment is not None
    assert environment.id == found
    assert (environment.preprocessing is not None) == frames


@pytest.mark.parametrize("arguments", [None, [], {}, {"env_id": 5}, {"seed": 1}, {"env": ""}])
def test_arguments_without_an_environment_name_none(arguments: Any) -> None:
    assert environment_of(arguments) is None


def test_either_key_names_the_environment() -> None:
    for key in ("env_id", "env"):
        environment = environment_of({key: "Acrobot-v1"})
        assert environment is not None
        assert environment.id == "Acrobot-v1"
