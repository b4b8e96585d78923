"""`slimq train --from`: going on from a run folder or a policy."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from running import COMMAND
from slimq.core.repository import Repository

CONFIG = """
policy = "short"
calibration_states = 20
[environment]
id = "CartPole-v1"
max_episode_steps = 60
[network]
kind = "mlp"
hidden = [8]
[algorithm]
steps = 600
environments = 2
replay_size = 1000
learning_starts = 100
[run]
precision = "fp32"
threads = 1
evaluate_episodes = 1
"""


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `slimq train short.toml` has run."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "short.toml").write_text(CONFIG)
    subprocess.run([*COMMAND, "train", "short.toml"], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def trained(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, as the current folder."""
    folder = Path(shutil.copytree(first, tmp_path / "copy"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    yield folder
    torch.set_num_threads(before)


def write(name: str, **changes: str) -> str:
    text = CONFIG
    for old, new in {"steps = 600": "steps = 600", **changes}.items():
        assert old in text
        text = text.replace(old, new)
    Path(name).write_text(text)
    return name


def test_changed_settings_are_refused_until_from_says_to_go_on(trained: Path, invoke: Any) -> None:
    changed = "steps = 900\nlearning_rate = 0.001"
    write("short.toml", **{"steps = 600": changed})
    code, _, errors = invoke("train", "short.toml", "--replace")
    last = errors.splitlines()[-1]
    assert code == 2
    assert "was made with other values of algorithm.learning_rate, algorithm.steps; " in last
    assert "--from runs/short" in last

    code, output, errors = invoke("train", "short.toml", "--replace", "--from", "runs/short")
    assert code == 0, errors
    assert "steps: 900" in output
    assert "runs/short: found a run folder with a checkpoint at agent step 600 and the" in errors
    manifest = Repository(trained / "policies").policy("short")
    assert manifest.training is not None
    assert (manifest.training.steps, manifest.training.updates) == (900, 200)
    (record,) = manifest.history
    assert record.from_step == 600
    assert record.changes == {
        "algorithm.learning_rate": (0.00025, 0.001),
        "algorithm.steps": (600, 900),
    }
    code, _, errors = invoke("train", "short.toml", "--replace")
    assert code == 0, errors
    assert Repository(trained / "policies").policy("short").history == manifest.history


def test_a_policy_is_fine_tuned_in_another_environment_and_keeps_its_history(
    trained: Path, invoke: Any
) -> None:
    before = Repository(trained / "policies").policy("short")
    changes = {'"short"': '"longer"', "max_episode_steps = 60": "max_episode_steps = 90"}
    config = write("longer.toml", **changes)
    code, _, errors = invoke("train", config, "--from", "policies/short")
    assert code == 0, errors
    assert "policies/short: found the policy short" in errors
    after = Repository(trained / "policies").policy("longer")
    assert before.checkpoint is not None
    (record,) = after.history
    assert record.from_sha256 == before.checkpoint.sha256
    assert record.changes == {
        "environment.max_episode_steps": (60, 90),
        "policy": ("short", "longer"),
    }
    config = write("third.toml", **{'"short"': '"third"'})
    code, _, errors = invoke("train", config, "--from", "policies/longer/policy.json")
    assert code == 0, errors
    assert Repository(trained / "policies").policy("third").history[0] == record
    assert len(Repository(trained / "policies").policy("third").history) == 2


def test_fresh_takes_the_weights_alone_but_never_from_the_folder_that_it_clears(
    trained: Path, invoke: Any
) -> None:
    config = write("short.toml", **{"steps = 600": "steps = 900"})
    code, output, errors = invoke(
        "train",
        config,
        "--no-publish",
        "--fresh",
        "--from",
        "runs/short",
        "--run",
        "runs/b",
        "--json",
    )
    assert code == 0, errors
    assert json.loads(output)["updates"] == 200
    assert "started with the weights" in errors
    kept = sorted((trained / "runs/short").iterdir())
    for start in ("runs/short", f"{next((trained / 'runs/short').glob('best-*'))}"):
        code, _, errors = invoke("train", config, "--no-publish", "--fresh", "--from", start)
        assert code == 2
        assert errors.splitlines()[-1].startswith(
            "slimq: --from: expected a place outside the run folder, which --fresh clears, received"
        )
    assert sorted((trained / "runs/short").iterdir()) == kept


def test_another_network_is_refused_with_file_and_field_and_touches_nothing(
    trained: Path, invoke: Any
) -> None:
    config = write("short.toml", **{"hidden = [8]": "hidden = [8, 4]"})
    code, _, errors = invoke("train", config, "--no-publish", "--from", "runs/short", "--run", "b")
    assert code == 2
    assert errors.splitlines()[-1] == (
        "slimq: short.toml: network.hidden: expected [8], as in the network of runs/short, "
        "received [8, 4]"
    )
    assert not Path("b").exists()


def test_what_is_no_checkpoint_is_refused(trained: Path, invoke: Any) -> None:
    code, _, errors = invoke("train", "short.toml", "--replace", "--from", "short.toml")
    assert code == 2
    assert errors == (
        "slimq: --from: expected a run folder, a .safetensors network of slimq, or a policy of the "
        "repository, received short.toml; slimq import makes a policy of other files\n"
    )


def test_threads_on_the_command_line_take_precedence_and_are_recorded(
    trained: Path, invoke: Any
) -> None:
    code, _, errors = invoke("train", "short.toml", "--replace", "--threads", "2")
    assert code == 0, errors
    training = Repository(trained / "policies").policy("short").training
    assert training is not None
    assert training.config["run"]["threads"] == 2
    assert ", 2 threads, fp32" in training.hardware


@pytest.mark.parametrize(
    "command", ["train short.toml", "compress short int8", "search short", "evaluate short"]
)
@pytest.mark.parametrize("threads", ["-1", "257"])
def test_every_command_that_trains_or_plays_refuses_threads_out_of_range(
    trained: Path, invoke: Any, command: str, threads: str
) -> None:
    code, _, errors = invoke(*command.split(), "--threads", threads)
    assert (code, errors) == (2, f"slimq: --threads: expected 0 to 256, received {threads}\n")
