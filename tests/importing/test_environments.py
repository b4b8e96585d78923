from __future__ import annotations

from typing import Any

import pytest

from slimq.core.errors import InvalidInputError
from slimq.importing.environments import check_registered, environment_of, named_environment


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


@pytest.mark.parametrize("name", ["CartPole-v1", "PongNoFrameskip-v4", "ALE/Pong-v5"])
def test_registered_environments_of_a_file_are_used(name: str) -> None:
    environment = named_environment(name)
    assert environment is not None
    check_registered(environment)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("own:Thing-v5", "own:Thing-v5, which is code: give --env own:Thing-v5 if you trust it"),
        ("os:CartPole-v1", "os:CartPole-v1, which is code"),
        ("x.py:make; ls\n", r"'x.py:make; ls\n', which is code"),
        ("Thing-v5", "Thing-v5, which gymnasium has not registered: give --env MODULE:Thing-v5"),
        ("ALE/Thing-v5", "ALE/Thing-v5, which gymnasium has not registered"),
    ],
)
def test_other_environments_of_a_file_are_refused(name: str, problem: str) -> None:
    environment = named_environment(name)
    assert environment is not None
    with pytest.raises(InvalidInputError) as refused:
        check_registered(environment)
    assert f"the file names the environment {problem}" in str(refused.value)
    assert "\n" not in str(refused.value)
