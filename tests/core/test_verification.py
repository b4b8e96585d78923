"""`find_problems` reports every problem of a policy, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from slimq.core.calibration import CalibrationSet
from slimq.core.errors import NotFoundError
from slimq.core.publish import Publisher, content_entry
from slimq.core.repository import Repository
from slimq.core.verification import find_problems


@pytest.fixture
def problems(repository: Repository) -> Callable[[], list[str]]:
    return lambda: [str(problem) for problem in find_problems(repository, "tiny")]


@pytest.mark.parametrize("policy", ["tiny", "tiny_frames"])
def test_an_intact_policy_has_no_problems(repository: Repository, policy: str) -> None:
    assert find_problems(repository, policy) == []


def test_an_unknown_policy_is_not_a_problem_but_an_error(repository: Repository) -> None:
    with pytest.raises(NotFoundError, match="unknown policy 'nope'"):
        find_problems(repository, "nope")


def test_every_problem_is_found_at_once(repository: Repository, problems: Any) -> None:
    policy = repository.policy("tiny")
    assert policy.calibration is not None
    (repository.root / "tiny" / policy.calibration.path).unlink()
    model = repository.variant("tiny", "fp32").model
    (repository.root / "tiny/variants/fp32" / model.path).write_bytes(b"")
    (repository.root / "tiny/variants/other/variant.json").write_text("{", encoding="utf-8")
    found = problems()
    assert len(found) == 3
    assert found[0] == f"tiny/{policy.calibration.path}: is missing"
    assert found[1].startswith(f"tiny/variants/fp32/{model.path}: has 0 bytes")
    assert found[2].startswith("tiny/variants/other/variant.json: ")


def test_a_broken_policy_manifest_does_not_hide_the_variants(
    repository: Repository, problems: Any
) -> None:
    (repository.root / "tiny/policy.json").write_text("{}", encoding="utf-8")
    (repository.root / "tiny/variants/other/variant.json").write_text("{}", encoding="utf-8")
    places = [problem.split(":")[0] for problem in problems()]
    assert places == ["tiny/policy.json", "tiny/variants/other/variant.json"]


def test_a_missing_baseline_or_default_is_found(
    repository: Repository, publisher: Publisher, problems: Any
) -> None:
    changes = {"default_variant": "gone", "baseline_variant": "lost"}
    publisher.publish_policy(repository.policy("tiny").model_copy(update=changes), {})
    assert problems() == [
        "tiny/policy.json: baseline_variant: there is no variant 'lost'",
        "tiny/policy.json: default_variant: there is no variant 'gone'",
    ]


def test_a_model_that_answers_nan_on_a_calibration_state_is_found(
    publisher: Publisher, mlp: Any, variant_manifest: Any, problems: Any
) -> None:
    proto = onnx.load_from_string(mlp(0))
    bias = np.array([np.nan, 0], np.float32)
    proto.graph.initializer[3].CopyFrom(numpy_helper.from_array(bias, "b2"))
    model = proto.SerializeToString()
    entry = content_entry("model", ".onnx", model)
    publisher.publish_variant(variant_manifest("tiny", "nan", entry), model)
    assert problems() == [
        f"tiny/variants/nan/{entry.path}: returns non-finite Q-values for state 0"
    ]


def test_a_model_that_does_not_fit_the_policy_is_found(
    repository: Repository, publisher: Publisher, variant_manifest: Any, problems: Any
) -> None:
    _, model = repository.read_model("tiny_frames", "fp32")
    entry = content_entry("model", ".onnx", model)
    publisher.publish_variant(variant_manifest("tiny", "frames", entry), model)
    assert [problem.split(":")[1] for problem in problems()] == [" input"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"junk", "is not a calibration set"),
        (
            CalibrationSet(
                np.zeros((3, 4), np.float32),
                np.arange(3, dtype=np.int32)[:, None],
                np.zeros((3, 5), np.float32),
            ).to_bytes(),
            r"q_values: expected shape (3, 2), found (3, 5)",
        ),
        (
            CalibrationSet(
                np.zeros((3, 4), np.float32),
                np.full((3, 1), 7, np.int32),
                np.zeros((3, 2), np.float32),
            ).to_bytes(),
            "is not a calibration set",
        ),
        (
            CalibrationSet(
                np.full((3, 4), np.inf, np.float32),
                np.arange(3, dtype=np.int32)[:, None],
                np.zeros((3, 2), np.float32),
            ).to_bytes(),
            "finite",
        ),
    ],
)
def test_a_calibration_set_that_does_not_fit_is_found(
    repository: Repository, publisher: Publisher, problems: Any, content: bytes, message: str
) -> None:
    entry = content_entry("calibration", ".npz", content)
    manifest = repository.policy("tiny").model_copy(update={"calibration": entry})
    publisher.publish_policy(manifest, {entry.path: content})
    (found,) = problems()
    assert found.startswith(f"tiny/{entry.path}: ")
    assert message in found


def test_a_report_that_was_tampered_with_is_found(
    repository: Repository, publisher: Publisher, report_of: Any, problems: Any
) -> None:
    report = report_of(repository.variant("tiny", "fp32"))
    entry = publisher.attach_report("tiny", "fp32", report).report
    assert entry is not None
    path = repository.root / "tiny/variants/fp32" / entry.path
    path.write_bytes(path.read_bytes().replace(b"9.5", b"9.9"))
    (found,) = problems()
    assert found.startswith(f"tiny/variants/fp32/{entry.path}: has sha256")


def test_a_variant_of_another_checkpoint_is_found(
    repository: Repository, publisher: Publisher, mlp: Any, variant_manifest: Any, problems: Any
) -> None:
    checkpoint = content_entry("checkpoint", ".safetensors", b"trained again")
    tiny = repository.policy("tiny").model_copy(update={"checkpoint": checkpoint})
    for name, parent in (("old", "0" * 64), ("new", checkpoint.sha256)):
        entry = content_entry("model", ".onnx", mlp(5))
        manifest = variant_manifest("tiny", name, entry).model_copy(update={"parent": parent})
        publisher.publish_variant(manifest, mlp(5))
    assert problems() == [], "without a checkpoint there is nothing to compare with"
    publisher.publish_policy(tiny, {checkpoint.path: b"trained again"})
    assert problems() == [
        "tiny/variants/old/variant.json: was made from another checkpoint; "
        "run slimq compress tiny old again"
    ]


def test_a_model_that_fails_on_the_calibration_states_is_found(
    publisher: Publisher, variant_manifest: Any, problems: Any
) -> None:
    model = _fails_beyond_two()
    entry = content_entry("model", ".onnx", model)
    publisher.publish_variant(variant_manifest("tiny", "fails", entry), model)
    (found,) = problems()
    start = f"tiny/variants/fails/{entry.path}: does not run on the states from 0 on: "
    assert found.startswith(start)
    assert "\n" not in found


def _fails_beyond_two() -> bytes:
    """An MLP that gathers one of two biases by batch size, so that 3 observations are too many."""
    from onnx import TensorProto, helper

    constants = {
        "w": np.ones((4, 2), np.float32),
        "biases": np.zeros((3, 2), np.float32),
        "zero": np.array([0], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["observation", "w"], ["product"]),
        helper.make_node("Shape", ["observation"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["count"]),
        helper.make_node("Gather", ["biases", "count"], ["bias"]),
        helper.make_node("Add", ["product", "bias"], ["q_values"]),
    ]
    observation = helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", 4])
    q_values = helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["batch", 2])
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "policy", [observation], [q_values], initializers)
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    return bytes(model.SerializeToString())


def test_a_missing_graph_of_a_policy_without_a_checkpoint_is_found(
    repository: Repository, problems: Any
) -> None:
    entry = content_entry("policy", ".onnx", b"graph")
    manifest = repository.policy("tiny").model_copy(update={"graph": entry})
    path = repository.root / "tiny" / "policy.json"
    path.write_text(manifest.model_dump_json(), encoding="utf-8")
    assert problems() == [f"tiny/{entry.path}: is missing"]
