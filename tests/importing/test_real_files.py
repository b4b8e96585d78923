"""Files that the real programs wrote: the published Q-values are those that they compute."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from places import ROOT
from slimq.cli.main import app
from slimq.core.manifest import PolicyManifest
from slimq.core.observation import Observations
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.repository import Repository
from slimq.core.verification import find_problems
from slimq.importing.checking import relative_error

PYTHON = ROOT / ".venv-imports" / "bin" / "python"
SCRIPT = Path(__file__).parent / "make_files.py"
GRAPHS = {"cnn-tanh", "cnn-silu", "onnx-two", "onnx-two-fixed"}
"""Cases that slimq has no network for."""
PAGES = {"ppo": "PPO", "a2c": "A2C", "sac": "SAC"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON.exists() and "CI" not in os.environ, reason="`make slow` sets up the programs"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files, with `cases.json`."""
    made = tmp_path_factory.mktemp("real") / "files"
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [PYTHON, SCRIPT, made], capture_output=True, text=True, timeout=900, env=variables
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return made


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["import", *arguments])


def observations(repository: Repository, manifest: PolicyManifest) -> Observations:
    """The states of the file in their order, of which every fifth is held out."""
    calibration, held_out = repository.calibration(manifest), repository.held_out(manifest)
    assert calibration is not None
    assert held_out is not None
    seen, kept = (part.observations(manifest.observation) for part in (calibration, held_out))
    return np.insert(seen, np.arange(1, len(kept) + 1) * 4, kept, axis=0)


def test_every_file_has_the_q_values_of_its_program(folder: Path, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "policies")
    cases = json.loads((folder / "cases.json").read_text())
    assert len(cases) > 45
    graphs = set()
    for case in cases:
        name = case["name"]
        file = str(folder / f"{name}.states.npz")
        options = ["--observations", file, "--policies", str(repository.root), *case["options"]]
        done = run(str(folder / case["file"]), "--policy", name, "--json", *options)
        assert done.exit_code == 0, (name, done.output, done.exception)
        manifest = repository.policy(name)
        states = observations(repository, manifest)
        _, model = repository.read_model(name, "fp32")
        policy = OnnxPolicy(model, manifest.observation, len(manifest.actions))
        q_values = policy(states)
        expected = np.load(folder / f"{name}.q_values.npy")
        assert relative_error(expected, q_values) < 1e-4, name
        assert find_problems(repository, name) == []
        if manifest.graph is not None:
            graphs.add(name)
    assert graphs == GRAPHS


@pytest.mark.parametrize("name", PAGES)
def test_other_algorithms_are_named(folder: Path, tmp_path: Path, name: str) -> None:
    done = run(str(folder / f"{name}.zip"), "--policy", name, "--policies", str(tmp_path / "p"))
    assert done.exit_code != 0
    assert f"received a policy of {PAGES[name]}" in str(done.exception)
    assert not (tmp_path / "p").exists()


def test_a_pickled_module_is_refused(folder: Path, tmp_path: Path) -> None:
    done = run(str(folder / "module.pt"), "--policy", "x", "--policies", str(tmp_path / "p"))
    assert "needs torch.nn.modules.container.Sequential" in str(done.exception)
    assert not (tmp_path / "p").exists()


def test_a_hub_folder_plays_in_the_environment_that_it_names(folder: Path, tmp_path: Path) -> None:
    policies = str(tmp_path / "policies")
    done = run(str(folder / "hub"), "--policy", "cart", "--policies", policies, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    summary = json.loads(done.stdout)
    assert summary["environment"] == "CartPole-v1"
    assert summary["max_error"] < 1e-4
    assert "vec_normalize.pkl" in summary["notes"][0]
