"""A full disk ends a command in one line, with the file, and leaves nothing half-written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from full_disk import contents, fill, small_disk
from slimq.core.repository import Repository

SHIPPED = Path(__file__).parents[2] / "policies" / "cartpole"
FULL = "No space left on device"
CONFIG = """
policy = "short"
calibration_states = 20
[environment]
id = "CartPole-v1"
max_episode_steps = 60
[network]
kind = "mlp"
hidden = [64]
[algorithm]
steps = 600
environments = 2
replay_size = 1000
learning_starts = 100
[run]
precision = "fp32"
threads = 1
log_every = 100
evaluate_episodes = 1
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "512k") as place:
        yield place


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "short.toml"
    path.write_text(CONFIG)
    return path


def error_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("slimq: ")]


def test_training_names_what_it_could_not_write(disk: Path, config: Path, slimq: Any) -> None:
    filler = fill(disk)
    with filler.open("rb+") as file:  # the logs find space, the checkpoint does not
        file.truncate(filler.stat().st_size - 12_288)
    done = slimq("train", config, "--no-publish", "--run", disk / "run")
    assert done.returncode == 2
    (line,) = error_lines(done.stderr)
    assert line.startswith(f"slimq: {disk}/run/")
    assert line.endswith(f": {FULL}; there is no checkpoint yet")
    assert "Traceback" not in done.stderr
    left = [path for path in contents(disk / "run") if "events" not in path]
    assert set(left) <= {".lock", "tensorboard", "metrics.jsonl", "best-000000000600.safetensors"}
    filler.unlink()
    done = slimq("train", config, "--no-publish", "--run", disk / "run")
    assert done.returncode == 0, done.stderr


def test_publishing_leaves_no_file_of_a_policy_that_does_not_fit(
    disk: Path, config: Path, invoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    filler = fill(disk)
    with filler.open("rb+") as file:  # the network finds space, the manifest does not
        file.truncate(filler.stat().st_size - 8_192)
    code, _, errors = invoke("train", str(config), "--policies", str(disk / "policies"))
    assert code == 2
    (line,) = error_lines(errors)
    assert line.startswith("slimq: short: cannot be published: ")
    assert f": {FULL}; nothing that was published is lost" in line
    assert contents(disk).keys() <= {"policies", "policies/short", "policies/short/.lock"}
    assert Repository(disk / "policies").policies() == []
    filler.unlink()
    code, _, errors = invoke("train", str(config), "--policies", str(disk / "policies"))
    assert code == 0, errors
    assert Repository(disk / "policies").policies() == ["short"]


def test_an_evaluation_names_its_log(disk: Path, tiny_repository: Path, slimq: Any) -> None:
    fill(disk)
    work = disk / "work"
    done = slimq(
        *("evaluate", "tiny", "--policies", tiny_repository, "--episodes", 2, "--work", work)
    )
    assert done.returncode == 2
    (line,) = error_lines(done.stderr)
    assert line.startswith(f"slimq: {work}/tiny/")
    assert line.endswith(f".jsonl: {FULL}")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_search_names_its_journal(disk: Path, tmp_path: Path, slimq: Any, workers: int) -> None:
    shutil.copytree(SHIPPED, tmp_path / "policies" / "cartpole")
    options = ["--trials", 2, "--effort", 0.001, "--publish", 0, "--work", disk / "work"]
    done = slimq("search", "cartpole", *options, "--minutes", 1e-9, cwd=tmp_path)
    assert (disk / "work/cartpole/margin-0.02_seed-0/journal.jsonl").exists(), done.stderr
    fill(disk)
    done = slimq("search", "cartpole", *options, "--workers", workers, cwd=tmp_path)
    assert done.returncode in (1, 2)
    (line,) = error_lines(done.stderr)
    assert f"journal.jsonl: {FULL}" in line
    assert "Traceback" not in done.stderr
