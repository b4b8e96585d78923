from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from running import COMMAND
from slimq.core.calibration import CalibrationSet
from slimq.core.repository import Repository
from slimq.networks.checkpoint import load_network
from waiting import until

CONFIG = """
policy = "short"
seed = 3
calibration_states = 50
[environment]
id = "CartPole-v1"
max_episode_steps = 100
[network]
kind = "mlp"
hidden = [8]
[algorithm]
steps = {steps}
environments = 2
replay_size = 1000
learning_starts = 100
[run]
precision = "fp32"
threads = 1
evaluate_every = 400
evaluate_episodes = 2
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A configuration in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "short.toml"
    path.write_text(CONFIG.format(steps=1000))
    before = torch.get_num_threads()
    yield path
    torch.set_num_threads(before)


def test_training_publishes_a_policy(tmp_path: Path, config: Path, slimq: Any, invoke: Any) -> None:
    done = slimq("train", config, "--json", timeout=120)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["steps"] == 1000
    repository = Repository(tmp_path / "policies")
    manifest = repository.policy("short")
    assert manifest.training.steps == 1000
    assert manifest.training.config["algorithm"]["steps"] == 1000
    assert [step for step, _ in manifest.training.curve] == [400, 800, 1000]
    assert 9 < manifest.random_policy.mean < 40
    assert manifest.checkpoint is not None
    assert manifest.calibration is not None
    network = load_network(repository.read_file("short", manifest.checkpoint))
    calibration = CalibrationSet.from_bytes(repository.read_file("short", manifest.calibration))
    assert calibration.observations(manifest.observation).shape == (50, 4)
    assert network.spec.actions == 2

    assert "slimq: next, find its smallest variant: slimq shrink short\n" in done.stderr
    code, _, errors = invoke("train", str(config))
    assert code == 2
    assert "--replace" in errors
    path = tmp_path / "policies" / "short" / "policy.json"
    promoted = {"default_variant": "int8", "previous_default": "fp32"}
    path.write_text(json.dumps(json.loads(path.read_text()) | promoted))
    code, output, errors = invoke("train", str(config), "--replace", "--fresh")
    assert code == 0, errors
    assert "default_variant: fp32\n" in output
    assert "short: the default is fp32 again, because int8 was made from" in errors
    assert "slimq promote short int8\n" in errors
    assert repository.policy("short").default_variant == "fp32"
    assert repository.policy("short").previous_default is None
    assert repository.policy("short").checkpoint == manifest.checkpoint


def test_an_unknown_key_is_refused_in_one_line(config: Path, slimq: Any) -> None:
    config.write_text(config.read_text().replace("environments = 2", "enviroments = 2"))
    done = slimq("train", config)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "did you mean 'environments'" in done.stderr
    assert str(config) in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("CartPole-v1", "CartPole-v99", "environment.id: "),
        ("hidden = [8]", "hidden = [8]\nconvolutions = []", "unknown key 'convolutions'"),
        (
            'kind = "mlp"',
            'kind = "conv"\nconvolutions = [{ channels = 1, kernel = 1, stride = 1 }]',
            "network: expected one that fits CartPole-v1",
        ),
        (
            '"CartPole-v1"',
            '"CartPole-v1"\npreprocessing = {}',
            "environment.preprocessing: expected a registered Atari game, received CartPole-v1",
        ),
        ("threads = 1", 'threads = 1\ndevice = "gpu"', "run.device: expected cpu, cuda or auto"),
    ],
)
def test_an_invalid_value_is_refused_with_its_file_and_key(
    config: Path, invoke: Any, old: str, new: str, problem: str
) -> None:
    config.write_text(config.read_text().replace(old, new))
    code, _, errors = invoke("train", str(config))
    assert code == 2
    assert f"slimq: {config}: " in errors
    assert problem in errors
    assert "Traceback" not in errors


def test_ctrl_c_saves_a_checkpoint_from_which_the_same_command_resumes(
    tmp_path: Path, config: Path, invoke: Any
) -> None:
    config.write_text(CONFIG.format(steps=15_000))
    command = [*COMMAND, "train", str(config), "--no-publish"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        until(lambda: list(tmp_path.glob("runs/short/best-*.safetensors")), 60, "a best network")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "run the same command to resume" in errors
    assert len(list((tmp_path / "runs/short").glob("checkpoint-*"))) == 1
    code, output, errors = invoke("train", str(config), "--no-publish", "--json")
    assert code == 0, errors
    assert "resumed" in errors
    assert json.loads(output)["steps"] == 15_000
    assert not (tmp_path / "policies").exists()


GAME = """
import gymnasium
import numpy as np


class Game(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    played = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.played = 0, self.played + 1
        return self.np_random.random(3, dtype=np.float32), {{}}

    def step(self, action):
        self.steps += 1
        observation = self.np_random.random(3, dtype=np.float32)
        if self.played > 20:
            {fault}
        return observation, 1.0, self.steps >= 10, False, {{}}
"""


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("observation[1] = np.nan", "observation[1]: expected a finite float32, received nan"),
        ("raise RuntimeError('lost')", "step(): RuntimeError: lost (game.py:20)"),
    ],
)
def test_a_failing_environment_ends_in_one_line_and_keeps_the_checkpoint(
    tmp_path: Path, config: Path, invoke: Any, fault: str, problem: str
) -> None:
    (tmp_path / "game.py").write_text(GAME.format(fault=fault))
    text = config.read_text().replace('"CartPole-v1"', '"game.py:Game"')
    config.write_text(text + "checkpoint_minutes = 1e-9\n")
    code, _, errors = invoke("train", str(config))
    assert code == 2
    *_, line = errors.splitlines()
    assert line.startswith("slimq: game.py:Game: episode of seed ")
    assert f", step 0: {problem}; the last checkpoint is kept: " in line
    assert Path(tmp_path, line.rpartition(": ")[2]).is_dir()
    assert "Traceback" not in errors
    assert "learning_rate" not in errors
    assert not (tmp_path / "policies").exists()


def test_an_environment_that_ignores_its_seed_is_not_trained_on(
    tmp_path: Path, config: Path, invoke: Any
) -> None:
    (tmp_path / "game.py").write_text(GAME.format(fault="pass").replace("seed=seed", "seed=None"))
    config.write_text(config.read_text().replace('"CartPole-v1"', '"game.py:Game"'))
    code, _, errors = invoke("train", str(config))
    assert code == 2
    line = errors.splitlines()[-1]
    assert line.startswith("slimq: game.py:Game: episode of seed 0, reset: observation: differs")


def test_a_step_limit_above_the_environments_own_is_refused_with_its_key(
    config: Path, invoke: Any
) -> None:
    config.write_text(config.read_text().replace("steps = 100\n", "steps = 501\n"))
    code, _, errors = invoke("train", str(config))
    assert code == 2
    assert f"slimq: {config}: environment.max_episode_steps: expected at most 500" in errors
