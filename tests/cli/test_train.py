from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


def slimq(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "slimq.cli.main", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "short.toml"
    path.write_text(CONFIG.format(steps=1000))
    return path


def test_training_publishes_a_policy(tmp_path: Path, config: Path) -> None:
    done = slimq(tmp_path, "train", str(config), "--json")
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

    assert "slimq: next, make its full variant: slimq compress short fp32\n" in done.stderr
    again = slimq(tmp_path, "train", str(config))
    assert again.returncode == 2
    assert "--replace" in again.stderr
    path = tmp_path / "policies" / "short" / "policy.json"
    promoted = {"default_variant": "int8", "previous_default": "fp32"}
    path.write_text(json.dumps(json.loads(path.read_text()) | promoted))
    replaced = slimq(tmp_path, "train", str(config), "--replace", "--fresh")
    assert replaced.returncode == 0, replaced.stderr
    assert "default_variant: fp32\n" in replaced.stdout
    assert "short: the default is fp32 again, because int8 was made from" in replaced.stderr
    assert "slimq promote short int8\n" in replaced.stderr
    assert repository.policy("short").default_variant == "fp32"
    assert repository.policy("short").previous_default is None
    assert repository.policy("short").checkpoint == manifest.checkpoint


def test_an_unknown_key_is_refused_in_one_line(tmp_path: Path, config: Path) -> None:
    config.write_text(config.read_text().replace("environments = 2", "enviroments = 2"))
    done = slimq(tmp_path, "train", str(config))
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
    tmp_path: Path, config: Path, old: str, new: str, problem: str
) -> None:
    config.write_text(config.read_text().replace(old, new))
    done = slimq(tmp_path, "train", str(config))
    assert done.returncode == 2
    assert f"slimq: {config}: " in done.stderr
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_saves_a_checkpoint_from_which_the_same_command_resumes(
    tmp_path: Path, config: Path
) -> None:
    config.write_text(CONFIG.format(steps=30_000))
    command = [sys.executable, "-m", "slimq.cli.main", "train", str(config), "--no-publish"]
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        until(lambda: list(tmp_path.glob("runs/short/best-*.safetensors")), 60, "a best network")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "run the same command to resume" in errors
    assert len(list((tmp_path / "runs/short").glob("checkpoint-*"))) == 1
    done = slimq(tmp_path, "train", str(config), "--no-publish", "--json")
    assert done.returncode == 0, done.stderr
    assert "resumed" in done.stderr
    assert json.loads(done.stdout)["steps"] == 30_000
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
    tmp_path: Path, config: Path, fault: str, problem: str
) -> None:
    (tmp_path / "game.py").write_text(GAME.format(fault=fault))
    text = config.read_text().replace('"CartPole-v1"', '"game.py:Game"')
    config.write_text(text + "checkpoint_minutes = 1e-9\n")
    done = slimq(tmp_path, "train", str(config))
    assert done.returncode == 2
    *_, line = done.stderr.splitlines()
    assert line.startswith("slimq: game.py:Game: episode of seed ")
    assert f", step 0: {problem}; the last checkpoint is kept: " in line
    assert Path(tmp_path, line.rpartition(": ")[2]).is_dir()
    assert "Traceback" not in done.stderr
    assert "learning_rate" not in done.stderr
    assert not (tmp_path / "policies").exists()


def test_an_environment_that_ignores_its_seed_is_not_trained_on(
    tmp_path: Path, config: Path
) -> None:
    (tmp_path / "game.py").write_text(GAME.format(fault="pass").replace("seed=seed", "seed=None"))
    config.write_text(config.read_text().replace('"CartPole-v1"', '"game.py:Game"'))
    done = slimq(tmp_path, "train", str(config))
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("slimq: game.py:Game: episode of seed 0, reset: observation: differs")


def test_a_step_limit_above_the_environments_own_is_refused_with_its_key(
    tmp_path: Path, config: Path
) -> None:
    config.write_text(config.read_text().replace("steps = 100\n", "steps = 501\n"))
    done = slimq(tmp_path, "train", str(config))
    assert done.returncode == 2
    assert f"slimq: {config}: environment.max_episode_steps: expected at most 500" in done.stderr
