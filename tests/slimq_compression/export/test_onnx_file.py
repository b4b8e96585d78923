"""An exported ONNX file is its variant, and says all that it takes to run it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from builders import build_repository, make_mlp
from condition_reports import publish_report
from parts import build_parts_repository, draw_parts
from places import POLICIES
from slimq.core.errors import CheckFailedError
from slimq.core.observation import ObservationSpec
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.repository import Repository
from slimq_compression.export import onnx_file
from slimq_compression.export.onnx_file import OnnxReport
from slimq_compression.export.options import Options
from slimq_compression.export.targets import export_variant

SCRIPT = Path(__file__).parent / "scripts" / "act_from_file.py"
STEPS = 40
PARTS = ("maze", "robot", "taxi", "wheels", "buttons")


def export(root: Path, policy: str, variant: str, output: Path) -> OnnxReport:
    report: OnnxReport = export_variant(
        Repository(root), policy, variant, "onnx", output, Options()
    )
    return report


def draw_steps(root: Path, policy: str) -> dict[str, npt.NDArray[Any]]:
    """What the environment gives at each step: named parts, or recorded frames or observations."""
    repository = Repository(root)
    manifest = repository.policy(policy)
    resets = np.zeros(STEPS, np.uint8)
    resets[[0, 7, 9]] = 1
    if manifest.observation.parts:
        return {"reset": resets, **draw_parts(manifest.observation, STEPS)}
    states = repository.calibration(manifest)
    assert states is not None
    frames = np.asarray(states.frames)
    return {"reset": resets, "observation": frames[np.arange(STEPS) % len(frames)]}


def expected_actions(root: Path, policy: str, variant: str, steps: dict[str, Any]) -> list[int]:
    """The actions of the variant in the repository, on observations that core lays out."""
    repository = Repository(root)
    manifest = repository.policy(policy)
    _, content = repository.read_model(policy, variant)
    run = OnnxPolicy(content, manifest.observation, len(manifest.actions))
    spec, found = manifest.observation, []
    observation = spec.padding()
    for step in range(STEPS):
        if steps["reset"][step]:
            observation = spec.padding()
        observation = spec.push(observation, observe(spec, steps, step))
        found.append(int(run(observation).argmax()) + manifest.action_start)
    return found


def observe(spec: ObservationSpec, steps: dict[str, Any], step: int) -> Any:
    if spec.parts:
        return spec.join({part.name: steps[part.name][step] for part in spec.parts})
    return spec.frame.check(steps["observation"][step])


@pytest.mark.parametrize(
    ("policy", "variant"),
    [
        ("cartpole", "micro"),
        ("cartpole", "int8-dynamic"),
        ("frozenlake", "fitted-128-4bit"),
        ("minigrid-empty", "whole-int8"),
        ("pong", "tiny"),
        *((policy, "fp32") for policy in PARTS),
    ],
)
def test_onnxruntime_and_json_alone_run_it(tmp_path: Path, policy: str, variant: str) -> None:
    root = build_parts_repository(tmp_path / "parts") if policy in PARTS else POLICIES
    report = export(root, policy, variant, tmp_path / "out")
    steps = draw_steps(root, policy)
    np.savez(tmp_path / "steps.npz", **steps)
    file = tmp_path / "out" / report.file
    command = [sys.executable, "-I", str(SCRIPT), str(file), str(tmp_path / "steps.npz")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["actions"] == expected_actions(root, policy, variant, steps)
    manifest = Repository(root).policy(policy)
    start, names = manifest.action_start, manifest.actions
    assert found["names"] == [names[action - start] for action in found["actions"]]


@pytest.mark.parametrize(("policy", "variant"), [("cartpole", "sparse-obd"), ("pong", "tiny")])
def test_without_its_metadata_it_is_the_variants_model(
    tmp_path: Path, policy: str, variant: str
) -> None:
    report = export(POLICIES, policy, variant, tmp_path / "out")
    _, model = Repository(POLICIES).read_model(policy, variant)
    parsed = onnx.load_from_string((tmp_path / "out" / report.file).read_bytes())
    assert parsed.metadata_props
    del parsed.metadata_props[:]
    assert parsed.SerializeToString() == model


def test_the_report_has_figures_of_the_file(tmp_path: Path) -> None:
    report = export(POLICIES, "pong", "qat-int4", tmp_path / "out")
    content = (tmp_path / "out" / "pong-qat-int4.onnx").read_bytes()
    assert report.sha256 == hashlib.sha256(content).hexdigest()
    assert report.bytes == len(content)
    assert report.opsets == {"": 21, "com.microsoft": 1}
    variant = Repository(POLICIES).variant("pong", "qat-int4")
    assert report.model_sha256 == variant.model.sha256
    assert report.bytes == report.description_bytes + variant.model.bytes
    assert report.states == 1000
    written = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert written["evidence"] == report.evidence


def test_evidence_is_in_the_file_and_in_the_header_of_an_export_to_c(tmp_path: Path) -> None:
    root = build_repository(tmp_path / "policies")
    publish_report(root, "fp32", {})
    publish_report(root, "other", {"noise": 60.0})
    report = export(root, "tiny", "other", tmp_path / "out")
    expected = "Not robust: its loss relative to fp32 may exceed the margin under noise=0.01."
    assert report.evidence.endswith(expected)
    parsed = onnx.load(tmp_path / "out" / report.file)
    told = {entry.key: entry.value for entry in parsed.metadata_props}
    assert json.loads(told["slimq.evidence"])["text"] == report.evidence
    export_variant(Repository(root), "tiny", "other", "c", tmp_path / "c", Options())
    header = (tmp_path / "c" / "policy.h").read_text("utf-8")
    assert expected in " ".join(header.replace(" * ", " ").split())


def test_a_file_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the description had been added to another model."""
    real = onnx_file.add_description

    def mixed_up(policy: Any, variant: Any, model: bytes, *rest: Any) -> Any:
        return real(policy, variant, make_mlp(99), *rest)

    monkeypatch.setattr(onnx_file, "add_description", mixed_up)
    root = build_repository(tmp_path / "policies")
    with pytest.raises(CheckFailedError, match="returns different Q-values from the variant"):
        export(root, "tiny", "fp32", tmp_path / "out")
    assert not (tmp_path / "out").exists()
