from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import make_mlp
from model_server import ModelServer
from parts import SPECS, build_parts_repository, draw_parts
from slimq.core.client import LocalPolicy
from slimq.core.errors import (
    InvalidInputError,
    MissingExtraError,
    ObservationError,
    RepositoryError,
    ServiceError,
)
from slimq.core.model_file.described import read_described
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.repository import Repository


def content(root: Path, policy: str, variant: str = "fp32") -> bytes:
    return read_described(Repository(root), policy, variant).content


def reference(root: Path, policy: str, variant: str = "fp32") -> OnnxPolicy:
    repository = Repository(root)
    manifest = repository.policy(policy)
    _, model = repository.read_model(policy, variant)
    return OnnxPolicy(model, manifest.observation, len(manifest.actions))


def test_a_vector_policy_acts_as_its_model(tiny_repository: Path) -> None:
    local = LocalPolicy(content(tiny_repository, "tiny"))
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    expected = reference(tiny_repository, "tiny")(observations)
    np.testing.assert_array_equal(local.q_values(observations), expected)
    assert [local.act(one) for one in observations] == expected.argmax(axis=1).tolist()


def test_frames_are_stacked_from_padding_on(tiny_repository: Path) -> None:
    local = LocalPolicy(content(tiny_repository, "tiny_frames"))
    run = reference(tiny_repository, "tiny_frames")
    frames = np.random.default_rng(0).integers(0, 256, (6, 84, 84), np.uint8)
    for _ in range(2):
        stack = np.zeros((4, 84, 84), np.uint8)
        for frame in frames:
            stack = np.concatenate((stack[1:], frame[np.newaxis]))
            assert local.act(frame) == run(stack[np.newaxis]).argmax()
        local.reset()


def test_a_step_that_is_refused_leaves_the_stack_as_it_was(tiny_repository: Path) -> None:
    local, other = (LocalPolicy(content(tiny_repository, "tiny_frames")) for _ in range(2))
    frames = np.random.default_rng(0).integers(0, 256, (2, 84, 84), np.uint8)
    local.act(frames[0])
    other.act(frames[0])
    for wrong in (np.zeros((4, 84, 84), np.uint8), np.zeros((2, 84, 84), np.uint8), "x"):
        with pytest.raises(ObservationError, match="observation: expected"):
            local.act(wrong)
    local.q_values(np.zeros((1, 4, 84, 84), np.uint8))
    local.act(frames[1])
    other.act(frames[1])
    np.testing.assert_array_equal(local._observation, other._observation)


@pytest.mark.parametrize("policy", sorted(SPECS))
def test_named_parts_and_integers_are_taken_as_the_environment_gives_them(
    tmp_path: Path, policy: str
) -> None:
    root = build_parts_repository(tmp_path / "parts")
    local, run, spec = LocalPolicy(content(root, policy)), reference(root, policy), SPECS[policy]
    drawn = draw_parts(spec, 20)
    expected = run(spec.join(drawn))
    start = Repository(root).policy(policy).action_start
    found = [local.act({name: values[row] for name, values in drawn.items()}) for row in range(20)]
    assert found == (expected.argmax(axis=1) + start).tolist()
    np.testing.assert_array_equal(local.q_values(drawn), expected)


def test_a_wrong_shape_is_refused_with_the_right_one(tiny_repository: Path) -> None:
    local = LocalPolicy(content(tiny_repository, "tiny"))
    with pytest.raises(
        ObservationError, match=r"expected shape \(batch, 4\), received shape \(3,\)"
    ):
        local.act([0, 0, 0])
    with pytest.raises(ObservationError, match=r"one of shape \(4\), received a batch of 2"):
        local.act(np.zeros((2, 4)))


def test_q_values_that_are_not_finite_are_an_error(tiny_repository: Path) -> None:
    local = LocalPolicy(content(tiny_repository, "tiny"))
    with pytest.raises(InvalidInputError, match=r"observation\[0\]: expected finite Q-values"):
        local.act([3.4e38] * 4)


def test_a_file_is_loaded_from_disk(tiny_repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(content(tiny_repository, "tiny"))
    local = LocalPolicy.load(path)
    assert local.description.policy.name == "tiny"
    with pytest.raises(InvalidInputError, match=r"expected a policy of LocalPolicy\.fetch"):
        local.refresh()
    path.write_bytes(make_mlp())
    with pytest.raises(RepositoryError, match=r"tiny\.onnx: has no properties slimq\.\*"):
        LocalPolicy.load(path)


def test_a_new_version_is_taken_on_refresh_and_a_broken_one_is_not(
    tiny_repository: Path, tmp_path: Path
) -> None:
    first, second = (content(tiny_repository, "tiny", name) for name in ("fp32", "other"))
    with ModelServer(first) as server:
        local = LocalPolicy.fetch(server.url, cache=tmp_path)
        observation = np.ones((1, 4), np.float32)
        before = local.q_values(observation)
        assert local.refresh() is False
        server.content = make_mlp(3)
        with pytest.raises(RepositoryError, match="has no properties"):
            local.refresh()
        np.testing.assert_array_equal(local.q_values(observation), before)
        server.content = second
        assert local.refresh() is True
    assert local.description.variant.name == "other"
    assert not np.array_equal(local.q_values(observation), before)
    with pytest.raises(ServiceError, match="cannot be reached"):
        local.refresh()


def test_frames_are_kept_on_refresh(tiny_repository: Path, tmp_path: Path) -> None:
    first, second = (content(tiny_repository, "tiny_frames", name) for name in ("fp32", "other"))
    frames = np.random.default_rng(0).integers(0, 256, (2, 84, 84), np.uint8)
    with ModelServer(first) as server:
        local = LocalPolicy.fetch(server.url, cache=tmp_path)
        local.act(frames[0])
        server.content = second
        assert local.refresh()
    stack = np.zeros((1, 4, 84, 84), np.uint8)
    stack[0, 2:] = frames
    expected = reference(tiny_repository, "tiny_frames", "other")(stack).argmax()
    assert local.act(frames[1]) == expected


def test_without_onnxruntime_nothing_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = """
import sys
sys.modules["onnxruntime"] = None
from slimq.core.client import LocalPolicy
try:
    LocalPolicy.fetch("http://127.0.0.1:9/model", cache=sys.argv[1])
except Exception as error:
    print(type(error).__name__, error)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    found: Any = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = "MissingExtraError onnxruntime is not installed: pip install 'slimq[serve]'"
    assert found.stdout.strip() == expected
    assert MissingExtraError.code == "missing-extra"
