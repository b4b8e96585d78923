"""The page of an export, in a real browser without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import build_repository
from places import POLICIES
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.qfunction import QValues
from slimq.core.repository import Repository
from slimq.core.seeds import HELD_OUT
from slimq_compression.export.web.episode import Recording, record_episode
from slimq_compression.export.web.operators import runnable
from web import file_server
from web_exports import export, needs_browser, visit

pytestmark = [pytest.mark.slow, needs_browser]
STATES = 3
BOUND = 1e-2
"""Largest difference of a Q-value, by the range of all: where activations are rounded, kernels for
integers differ between processors."""
SHIPPED = Repository(POLICIES)
SMALLEST = {
    policy: min(
        SHIPPED.variants(policy), key=lambda name: SHIPPED.variant(policy, name).model.bytes
    )
    for policy in SHIPPED.policies()
}
"""Of each policy that ships, the variant of the fewest bytes."""
IN_THE_PAGE = ("CartPole-", "minatar.gym:MinAtar/")


@pytest.mark.parametrize(("policy", "variant"), SMALLEST.items())
def test_every_policy_plays_as_in_python(policy: str, variant: str, tmp_path: Path) -> None:
    environment = SHIPPED.policy(policy).environment
    assert environment is not None
    live = environment.id.startswith(IN_THE_PAGE)
    report = export(policy, variant, tmp_path / "export")
    assert report.episode.complete
    steps = ["play", "third", "pause", "numbers", "single", "numbers", "texts", "replay"]
    with file_server(tmp_path / "export") as url:
        found = visit(url, *steps, *(["episode"] if live else []))
    assert found["first_action_ms"] > 0
    assert found["console"] == []
    assert all(asked.startswith((url, "data:")) for asked in found["requests"])
    before, after = found["numbers"]
    assert int(after["Step"]) in (int(before["Step"]) + 1, 1)
    texts = found["texts"]
    assert ("played in this page" if live else "replayed from a recording") in texts["files"]
    assert texts["verdict"]
    assert found["actions"] == len(report.actions)
    assert found["colours"] > 1, "something is drawn"
    recording = played_in_python(policy, variant)
    expected = recording.q_values[: report.episode.steps]
    values, actions = np.array(found["replay"]["qValues"]), np.array(found["replay"]["actions"])
    assert np.abs(values - expected).max() / np.ptp(expected) < BOUND
    same = actions == expected.argmax(axis=1)
    best, second = -np.sort(-expected, axis=1)[:, :2].T
    assert same[best - second > 2 * BOUND * np.ptp(expected)].all()
    assert same.mean() > 0.99
    if live:
        assert found["episode"]["seed"] == HELD_OUT.start
        if same.all():
            assert found["episode"]["return"] == recording.rewards.sum()
    else:
        step = int(after["Step"])
        assert after["As in Python"] == f"{same[:step].sum()} of {step} actions"


def played_in_python(policy: str, variant: str) -> Recording:
    """The held-out episode, played anew with the variant as it is stored."""
    manifest = SHIPPED.policy(policy)
    _, content = SHIPPED.read_model(policy, variant)
    runs = OnnxPolicy(content, manifest.observation, len(manifest.actions))
    assert manifest.environment is not None
    return record_episode(manifest.environment, runs, HELD_OUT.start)


def test_the_recording_can_be_chosen_on_a_small_dark_screen(tmp_path: Path) -> None:
    export("cartpole", "micro", tmp_path / "export")
    with file_server(tmp_path / "export") as url:
        settings = {"width": 360, "scheme": "dark"}
        found = visit(url, "play", "recorded", "pause", "numbers", "texts", **settings)
    (numbers,) = found["numbers"]
    same, _, total = numbers["As in Python"].partition(" of ")
    assert same == total.removesuffix(" actions")
    assert found["wide"] is False, "nothing is cut off"
    assert found["console"] == []


def test_a_pause_shows_the_latest_step_however_fast_they_are(tmp_path: Path) -> None:
    """At this speed, most steps are not shown."""
    export("cartpole", "micro", tmp_path / "export")
    with file_server(tmp_path / "export") as url:
        found = visit(url, "play", "third", "fastest", "pause", "numbers", "single", "numbers")
    before, after = (int(numbers["Step"].replace(",", "")) for numbers in found["numbers"])
    assert after in (before + 1, 1)


def test_minatar_plays_in_the_page_and_says_that_there_is_no_evidence(tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    write_minatar(policies)
    report = export("grid", "fp32", tmp_path / "export", policies)
    assert report.page_environment is not None
    with file_server(tmp_path / "export") as url:
        found = visit(url, "play", "third", "pause", "texts", "replay")
    assert found["console"] == []
    assert found["texts"]["verdict"] == "No evidence: this variant has not been evaluated."
    assert "played in this page" in found["texts"]["files"]
    assert len(found["replay"]["actions"]) == report.episode.steps


def write_minatar(policies: Path) -> None:
    """A policy of MinAtar's Freeway, whose episodes are long, with a small untrained network."""
    from builders import make_policy_manifest, write_policy
    from slimq.core.calibration import CalibrationSet
    from slimq.core.environment import EnvironmentSpec
    from slimq.core.observation import ObservationSpec
    from slimq.networks.export import export_onnx
    from slimq.networks.layers import ConvLayer
    from slimq.networks.qnetwork import QNetwork
    from slimq.networks.specification import ConvSpec, QNetworkSpec

    shape = (10, 10, 7)
    body = ConvSpec(channels="last", convolutions=(ConvLayer(channels=4, kernel=3),), hidden=(8,))
    network = QNetwork(
        QNetworkSpec(
            body=body, observation_shape=shape, observation_dtype="uint8", divisor=1.0, actions=3
        )
    ).eval()
    manifest = make_policy_manifest("grid").model_copy(
        update={
            "environment": EnvironmentSpec(id="minatar.gym:MinAtar/Freeway-v1"),
            "observation": ObservationSpec(dtype="uint8", shape=shape, low=0, high=1),
            "actions": ["n", "u", "d"],
        }
    )
    states = np.zeros((4, *shape), np.uint8)
    indices = np.arange(4, dtype=np.int32)[:, None]
    calibration = CalibrationSet(states, indices, np.zeros((4, 3), np.float32))
    write_policy(policies, manifest, calibration.to_bytes(), {"fp32": export_onnx(network)})


def test_a_browser_without_webassembly_gets_a_sentence(tmp_path: Path) -> None:
    export("tiny", "fp32", tmp_path / "export", build_repository(tmp_path / "policies"))
    with file_server(tmp_path / "export") as url:
        found = visit(url, "problem", "texts", without="WebAssembly")
    assert found["texts"]["status-text"].startswith("This browser has no WebAssembly")
    assert found["console"] == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda folder: (folder / "model.onnx").unlink(),
            "model.onnx could not be loaded: HTTP 404",
        ),
        (
            lambda folder: (folder / "model.onnx").write_bytes(bytes(100)),
            "model.onnx has 100 bytes, the report says ",
        ),
        (lambda folder: change_last_byte(folder / "model.onnx"), "model.onnx is not the model"),
        (lambda folder: change_last_byte(folder / "episode.bin"), "episode.bin is damaged"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(damage: Any, said: str, tmp_path: Path) -> None:
    export("tiny", "fp32", tmp_path / "export", build_repository(tmp_path / "policies"))
    damage(tmp_path / "export")
    with file_server(tmp_path / "export") as url:
        found = visit(url, "problem", "texts")
    assert found["texts"]["status-text"].startswith(said)


def change_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_every_shipped_variant_runs_and_agrees(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    export("cartpole", "micro", folder)
    expected: dict[str, QValues] = {}
    models = []
    repository = Repository(POLICIES)
    for policy in repository.policies():
        manifest = repository.policy(policy)
        calibration = repository.calibration(manifest)
        assert calibration is not None
        layout = manifest.observation
        observations = calibration.observations(layout)[:: len(calibration) // STATES][:STATES]
        for variant in repository.variants(policy):
            content = runnable(repository.read_model(policy, variant)[1]).content
            name = f"{policy}/{variant}"
            runs = OnnxPolicy(content, layout, len(manifest.actions))
            expected[name] = np.concatenate([runs(one[np.newaxis]) for one in observations])
            path = f"model-{len(models)}.onnx"
            (folder / path).write_bytes(content)
            models.append(
                {
                    "name": name,
                    "model": path,
                    "layout": {"dtype": layout.dtype, "shape": layout.shape},
                    "observations": observations.reshape(len(observations), -1).tolist(),
                }
            )
    (folder / "models.json").write_text(json.dumps(models))
    with file_server(folder) as url:
        found = visit(url, "play", "models")["models"]
    for name, values in expected.items():
        assert not isinstance(found[name], str), f"{name}: {found[name]}"
        difference = np.abs(np.array(found[name]) - values).max()
        assert difference / np.ptp(values) < BOUND, name
