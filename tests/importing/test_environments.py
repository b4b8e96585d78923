from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from msgpack_bytes import layers, pack
from policy_files import dense, q_net, save, sb3_zip
from slimq.cli.main import app
from slimq.core.errors import InvalidInputError
from slimq.importing.environments import check_registered, environment_of, named_environment

MAKE = """from pathlib import Path
import gymnasium
Path("trace").touch()
def main():
    return gymnasium.make("CartPole-v1")
"""


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


def by_card(folder: Path, name: str) -> Path:
    sb3_zip(folder / "hub" / "dqn.zip", q_net(dense(4, 2)))
    (folder / "hub" / "README.md").write_text(f"a DQN agent playing **{name}**\n")
    return folder / "hub"


def by_arguments_file(folder: Path, name: str) -> Path:
    sb3_zip(folder / "hub" / "dqn.zip", q_net(dense(4, 2)))
    (folder / "hub" / "args.yml").write_text(f"algo: dqn\nenv: {name}\n")
    return folder / "hub"


def by_file_name(folder: Path, name: str) -> Path:
    sb3_zip(folder / "hub" / f"dqn-{name}-v1.zip", q_net(dense(4, 2)))
    return folder / "hub"


def by_cleanrl(folder: Path, name: str) -> Path:
    weights = {f"network.{key}": value for key, value in dense(4, 8, 6).items()}
    weights["atoms"] = torch.linspace(-1, 1, 3)
    model = {"model_weights": weights, "args": {"env_id": name}}
    return save(folder / "x.cleanrl_model", model)


def by_flax(folder: Path, name: str) -> Path:
    parameters = layers(4, 8, 2)
    content = {"model_weights": {"params": parameters}, "args": {"env_id": name}}
    (folder / "x.cleanrl_model").write_bytes(pack(content))
    return folder / "x.cleanrl_model"


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["publish", "dry-run"])
@pytest.mark.parametrize("name", ["evil.py:main", "evil:main"])
@pytest.mark.parametrize("place", [by_card, by_arguments_file, by_file_name, by_cleanrl, by_flax])
def test_code_that_a_file_names_as_its_environment_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, options: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hub").mkdir()
    (tmp_path / "evil.py").write_text(MAKE)
    path = place(tmp_path, name)
    done = CliRunner().invoke(app, ["import", str(path), "--policy", "mine", *options])
    assert isinstance(done.exception, InvalidInputError), done.output
    assert f"the file names the environment {name}" in str(done.exception)
    assert "which is code: give --env" in str(done.exception)
    assert not Path("trace").exists()
    assert not Path("policies").exists()


def test_code_that_the_user_names_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(MAKE)
    path = by_cleanrl(tmp_path, "evil.py:main")
    arguments = ["import", str(path), "--policy", "mine", "--env", "evil.py:main", "--dry-run"]
    monkeypatch.setattr("slimq.importing.importer.RANDOM_EPISODES", 1)
    done = CliRunner().invoke(app, [*arguments, "--calibration-states", "10"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert Path("trace").exists(), "the code does nothing, so the other test shows nothing"
