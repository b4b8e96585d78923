"""`slimq shrink` as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from processes import children_of, has_ended
from running import COMMAND
from slimq.cli.main import app
from slimq.core.errors import CheckFailedError
from slimq.core.repository import Repository
from slimq.core.verification import find_problems
from waiting import until

pytest.importorskip("torch")
pytest.importorskip("optuna")

SHIPPED = Path(__file__).parents[2] / "policies" / "cartpole"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the shipped CartPole policy and nothing made of it."""
    shutil.copytree(SHIPPED, tmp_path / "policies" / "cartpole")
    shutil.rmtree(tmp_path / "policies" / "cartpole" / "variants")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, policy: str = "cartpole") -> Any:
    return CliRunner().invoke(app, ["shrink", policy, "--episodes", "5", *arguments])


@pytest.mark.slow
def test_a_policy_shrinks_without_a_recipe_and_goes_on_when_run_again(folder: Path) -> None:
    result = run("--minutes", "0.25", "--plot", "plots", "--no-robust")
    assert result.exit_code == 0, result.output
    repository = Repository(folder / "policies")
    made = set(repository.variants("cartpole")) - {"fp32"}
    assert made
    assert find_problems(repository, "cartpole") == []
    for name in made:
        assert (folder / "recipes" / "cartpole" / f"{name}.toml").is_file()
        report = repository.report("cartpole", name)
        assert report is not None
        assert report.played is not None
        assert len(report.played.returns) == 5
    smallest = min(made, key=lambda name: repository.variant("cartpole", name).model.bytes)
    line = f"{smallest}: the smallest variant of cartpole that is non-inferior undisturbed at 2.00%"
    assert line in result.stdout
    assert "best " in result.stderr
    assert list((folder / "plots").glob("*.png"))
    again = run("--minutes", "0.001", "--json", "--no-robust")
    assert again.exit_code == 0, again.output
    printed = json.loads(again.stdout)
    assert printed["recommendation"]["choice"]["variant"] == smallest
    assert printed["seconds"]["trials"]["undisturbed play"] > 0
    assert set(printed["seconds"]["after"]) == {"making and judging variants", "evaluating"}
    assert {one["variant"] for one in printed["tried"]} - {None} == made
    fewer = run("--episodes", "4", "--no-robust")
    assert "--episodes: expected at least 5" in str(fewer.exception)


def test_too_little_time_gives_post_training_quantization_and_says_so(folder: Path) -> None:
    result = run("--minutes", "0.02", "--workers", "1", "--no-robust")
    assert result.exit_code == 0, result.output
    assert "too short for anything but post-training quantization" in result.stderr
    assert "whole-int8" in Repository(folder / "policies").variants("cartpole")


def test_limits_out_of_reach_name_the_nearest(folder: Path) -> None:
    result = run("--minutes", "0.02", "--max-bytes", "10", "--no-robust")
    assert isinstance(result.exception, CheckFailedError)
    message = str(result.exception)
    assert "no variant that loses at most 2.00% meets the limits; the smallest, " in message
    assert message.endswith(" bytes")
    assert Repository(folder / "policies").variants("cartpole") == ["fp32"]


def test_a_policy_that_plays_at_random_has_nothing_to_keep(folder: Path) -> None:
    path = folder / "policies" / "cartpole" / "policy.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["random_policy"]["mean"] = 1_000.0
    path.write_text(json.dumps(manifest), encoding="utf-8")
    result = run("--minutes", "0.02")
    assert isinstance(result.exception, CheckFailedError)
    assert "the full policy returns 500, random play 1000" in str(result.exception)


def test_by_default_only_what_is_robust_is_published(folder: Path) -> None:
    """Episodes are short, so that few of them tell."""
    path = folder / "policies" / "cartpole" / "policy.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["environment"]["max_episode_steps"] = 60
    path.write_text(json.dumps(manifest), encoding="utf-8")
    result = run("--minutes", "0.02", "--workers", "1")
    assert result.exit_code == 0, result.output
    repository = Repository(folder / "policies")
    made = [name for name in repository.variants("cartpole") if name != "fp32"]
    for variant in made:
        accept = repository.variant("cartpole", variant).recipe.accept
        assert accept["robust"] is True
        report = repository.report("cartpole", variant)
        assert report is not None
        counts = [len(found.returns) for found in report.conditions]
        assert counts == [accept["condition_episodes"]] * 5
    assert "passed: robust 0 (at least -0.05, under noise=0.01)" in result.stdout
    smallest = "the smallest variant of cartpole that is non-inferior"
    assert any(f"{name}: {smallest}" in result.stdout for name in made)
    assert "and under each standard condition at 5.00%" in result.stdout
    (line,) = [one for one in result.stderr.splitlines() if one.startswith("slimq: time: ")]
    for purpose in ("under delayed=1", "undisturbed play", "evaluating", "judging variants"):
        assert purpose in line


@pytest.mark.slow
def test_recorded_states_alone_prove_nothing_in_play(folder: Path) -> None:
    pytest.importorskip("onnx")
    repository = Repository(folder / "policies")
    manifest = repository.policy("cartpole")
    calibration = repository.calibration(manifest)
    assert calibration is not None
    np.save(folder / "states.npy", calibration.observations(manifest.observation))
    made = CliRunner().invoke(app, ["compress", "cartpole", "fp32"])
    assert made.exit_code == 0, made.output
    _, model = repository.read_model("cartpole", "fp32")
    (folder / "model.onnx").write_bytes(model)
    imported = ["import", "model.onnx", "--policy", "recorded", "--observations", "states.npy"]
    assert CliRunner().invoke(app, imported).exit_code == 0
    result = run("--minutes", "0.1", policy="recorded")
    assert result.exit_code == 0, result.output
    assert "not proven in play" in result.stdout
    assert "with an agreement of at least 98.00%" in result.stdout
    smallest = [n for n in repository.variants("recorded") if n != "fp32"]
    assert smallest
    for name in smallest:
        report = repository.report("recorded", name)
        assert report is not None
        assert report.fidelity is not None
        assert report.played is None


@pytest.mark.slow
def test_an_interrupt_ends_the_workers_and_the_command_goes_on_later(folder: Path) -> None:
    command = [*COMMAND, "shrink", "cartpole", "--minutes", "5", "--workers", "2", "--no-robust"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        journal = Path("runs/shrink/cartpole/undisturbed_margin-0.02_seed-0/journal.jsonl")
        ended = '"state":1'
        until(lambda: journal.exists() and journal.read_text("utf-8").count(ended) >= 2, 120)
        workers = children_of(process.pid)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"stopped; the same command resumes runs/shrink/cartpole" in errors
    assert b"Traceback" not in errors
    until(lambda: all(has_ended(worker) for worker in workers), 20)
    result = run("--minutes", "0.001", "--no-robust")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--minutes", "0"), "minutes: expected more than 0"),
        (("--max-loss", "2"), "--max-loss: expected a share from 0 to below 1, received 2"),
        (("--max-bytes", "small"), "--max-bytes"),
        (("--max-latency", "soon"), "--max-latency"),
    ],
)
def test_bad_options_are_refused_by_name(
    folder: Path, arguments: tuple[str, ...], problem: str
) -> None:
    result = run(*arguments)
    assert result.exit_code != 0
    assert problem in str(result.exception)
