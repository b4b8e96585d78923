from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from places import ROOT
from policy_files import Payload, dense, q_net, save, sb3_zip, write_states
from slimq.cli.main import app
from slimq.core.errors import SlimqError
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.publish import Publisher
from slimq.core.repository import Repository
from slimq.core.verification import find_problems

CARTPOLE = '[environment]\nid = "CartPole-v1"\nmax_episode_steps = 60\n'
FP32 = 'name = "fp32"\n[accept]\nagreement = 0.99\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a policy, states and an environment."""
    sb3_zip(tmp_path / "dqn.zip", q_net(dense(4, 16, 2)))
    observations = np.random.default_rng(0).normal(size=(64, 4))
    write_states(tmp_path / "states.npz", observations=observations)
    (tmp_path / "env.toml").write_text(CARTPOLE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def balancing() -> dict[str, torch.Tensor]:
    """A network that pushes the cart to where the pole falls."""
    layers = {key: value * 0.01 for key, value in dense(4, 16, 2).items()}
    falls = torch.tensor([0.0, 0.2, 1.0, 1.0])
    layers["0.weight"][:2] += torch.stack([falls, -falls])
    layers["2.weight"][:, :2] += torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    return layers


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["import", *arguments])


def refused(*arguments: str) -> str:
    """The line that an import is refused with; nothing is published."""
    done = run(*arguments)
    assert done.exit_code != 0
    assert isinstance(done.exception, SlimqError), done.output
    assert not Path("policies").exists()
    assert "\n" not in str(done.exception)
    return str(done.exception)


def test_a_policy_with_states_is_published(folder: Path) -> None:
    done = run("dqn.zip", "--policy", "mine", "--observations", "states.npz", "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    summary = json.loads(done.stdout)
    assert summary["format"] == "stable-baselines3"
    assert summary["environment"] is None
    assert summary["max_error"] < 1e-4
    repository = Repository(folder / "policies")
    assert find_problems(repository, "mine") == []
    manifest = repository.policy("mine")
    assert manifest.imported is not None
    assert manifest.imported.states == 64
    calibration, held_out = repository.calibration(manifest), repository.held_out(manifest)
    assert calibration is not None
    assert held_out is not None
    assert summary["calibration_states"] == len(calibration) == 52
    assert summary["held_out_states"] == len(held_out) == 12


def test_the_text_says_that_nothing_is_proven_in_play(folder: Path) -> None:
    done = run("dqn.zip", "--policy", "mine", "--observations", "states.npz")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert "environment: none" in lines
    assert {"calibration_states: 52", "held_out_states: 12"} < set(lines)
    assert lines[-1] == "note: without an environment, the policy is not proven in play"


def test_the_text_says_that_there_are_too_few_states_to_hold_some_out(folder: Path) -> None:
    write_states(folder / "states.npz", observations=np.ones((9, 4)))
    done = run("dqn.zip", "--policy", "mine", "--observations", "states.npz")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert {"calibration_states: 9", "held_out_states: 0"} < set(lines)
    assert lines[-2].startswith("note: with 9 of the 10 states needed to hold some back from compr")


def test_a_policy_with_states_is_compressed_and_evaluated_on_others(folder: Path) -> None:
    sb3_zip(folder / "dqn.zip", q_net(balancing()))
    run("dqn.zip", "--policy", "mine", "--observations", "states.npz")
    int8 = str(ROOT / "recipes" / "int8.toml")
    for arguments in (["compress", "mine", int8], ["evaluate", "mine", "--no-latency"]):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, (done.output, done.exception)
    repository = Repository(folder / "policies")
    manifest, report = repository.policy("mine"), repository.report("mine", "int8")
    assert manifest.held_out is not None
    assert report is not None
    assert report.states_sha256 == manifest.held_out.sha256
    assert report.fidelity is not None
    assert report.fidelity.states == 12
    recipe = repository.variant("mine", "int8").recipe
    assert manifest.calibration is not None
    assert recipe.calibration_sha256 == manifest.calibration.sha256


def test_a_configuration_gives_the_environment(folder: Path) -> None:
    arguments = ("--config", "env.toml", "--calibration-states", "50", "--json")
    done = run("dqn.zip", "--policy", "mine", *arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    assert json.loads(done.stdout)["random_return"] > 5
    manifest = Repository(folder / "policies").policy("mine")
    assert manifest.environment is not None
    assert manifest.environment.max_episode_steps == 60


def test_a_dry_run_publishes_nothing(folder: Path) -> None:
    done = run("dqn.zip", "--policy", "mine", "--observations", "states.npz", "--dry-run")
    assert done.exit_code == 0
    assert "published: nothing (--dry-run)" in done.stdout
    done = run("dqn.zip", "--policy", "mine", "--observations", "states.npz", "--dry-run", "--json")
    assert json.loads(done.stdout)["published"] is None
    assert not (folder / "policies").exists()


def test_the_help_names_the_table_of_the_configuration() -> None:
    assert "[environment]," in run("--help").output


def test_an_existing_policy_needs_replace(folder: Path) -> None:
    arguments = ("dqn.zip", "--policy", "mine", "--observations", "states.npz")
    assert run(*arguments).exit_code == 0
    assert "--policy: expected an unused name, or --replace" in str(run(*arguments).exception)
    assert run(*arguments, "--replace").exit_code == 0


def test_a_replaced_policy_says_that_its_default_is_the_full_network_again(folder: Path) -> None:
    arguments = ("dqn.zip", "--policy", "mine", "--observations", "states.npz")
    assert run(*arguments).exit_code == 0
    repository = Repository(folder / "policies")
    variant, model = repository.read_model("mine", "fp32")
    publisher = Publisher(repository)
    publisher.publish_variant(variant.model_copy(update={"name": "small"}), model)
    publisher.promote("mine", "small")
    done = run(*arguments, "--replace")
    assert "the default is fp32 again, because small was made from the previous" in done.stderr
    assert repository.policy("mine").default_variant == "fp32"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["none.zip"], "FILE: expected a file or folder, received 'none.zip'"),
        (["dqn.zip"], "--env: expected --env ID, to play in, or --observations"),
        (["dqn.zip", "--observations", "none.npz"], "none.npz: expected a readable file"),
        (["dqn.zip", "--env", "NoSuch-v0"], "NoSuch"),
        (["dqn.zip", "--env-kwargs", "{}"], "--env-kwargs: expected --env in addition"),
        (["dqn.zip", "--env", "CartPole-v1", "--env-kwargs", "["], "expected a JSON object"),
        (["dqn.zip", "--env", "CartPole-v1", "--config", "env.toml"], "--config: expected no --"),
        (["dqn.zip", "--config", "none.toml"], "none.toml: file: No such file"),
        (["dqn.zip", "--env", "Acrobot-v1"], "expected observations float32 (4,), received float32 "
         "(6,)"),
        (["states.npz", "--observations", "states.npz"], "an npz of arrays"),
        ([".", "--observations", "states.npz"], "expected observations"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_in_a_line(folder: Path, arguments: list[str], problem: str) -> None:
    if arguments[0] == ".":
        write_states(folder / "states.npz", observations=np.ones((2, 5)))
        problem = "shape (batch, 4)"
    assert problem in refused(*arguments, "--policy", "mine")


def test_a_bad_name_is_refused(folder: Path) -> None:
    arguments = ("dqn.zip", "--observations", "states.npz")
    assert "--policy: expected up to 64 lower-case letters" in refused(
        *arguments, "--policy", "My Own"
    )


def test_a_hostile_file_leaves_no_trace(folder: Path) -> None:
    trace = folder / "trace"
    save(folder / "x.cleanrl_model", {"network.0.weight": Payload(trace)})
    sb3_zip(folder / "y.zip", {"q_net.q_net.0.weight": Payload(trace)})  # type: ignore[dict-item]
    for name in ("x.cleanrl_model", "y.zip"):
        line = refused(name, "--policy", "mine", "--observations", "states.npz")
        assert "needs io.open; nothing of it was executed" in line
    assert not trace.exists()


def test_the_command_ends_in_one_line_without_a_traceback(folder: Path) -> None:
    (folder / "dqn.zip").write_bytes((folder / "dqn.zip").read_bytes()[:900])
    done = subprocess.run(
        [sys.executable, "-m", "slimq.cli.main", "import", "dqn.zip", "--policy", "x"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("slimq: dqn.zip: expected a complete zip archive")
    assert done.stderr.count("\n") == 1


def test_an_imported_policy_is_compressed(folder: Path) -> None:
    sb3_zip(folder / "dqn.zip", q_net(balancing()))
    arguments = ("--config", "env.toml", "--calibration-states", "64")
    assert run("dqn.zip", "--policy", "mine", *arguments).exit_code == 0
    (folder / "fp32.toml").write_text(FP32)
    int8 = str(ROOT / "recipes" / "int8.toml")
    done = CliRunner().invoke(app, ["compress", "mine", "fp32.toml", int8])
    assert done.exit_code == 0, (done.output, done.exception)
    repository = Repository(folder / "policies")
    assert repository.variants("mine") == ["fp32", "int8"]
    manifest = repository.policy("mine")
    _, model = repository.read_model("mine", "int8")
    assert OnnxPolicy(model, manifest.observation, 2)(np.ones((2, 4), np.float32)).shape == (2, 2)
    assert find_problems(repository, "mine") == []
