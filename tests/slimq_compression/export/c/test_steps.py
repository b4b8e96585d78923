"""Steps after a layer that no kind of network has, but imported graphs do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, load_from_string

from builders import make_model
from c_exports import needs_compiler, relative_difference
from slimq.core.observation import ObservationSpec
from slimq_compression.export.lowering.lower import lower

pytestmark = needs_compiler


@pytest.mark.parametrize("bounds", [["low"], ["", "high"], ["low", "high"]])
def test_clips_of_one_or_two_bounds(bounds: list[str], tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    constants = {"w": weight, "low": np.float32(-0.5), "high": np.float32(0.75)}
    nodes = [
        helper.make_node("MatMul", ["observation", "w"], ["product"]),
        helper.make_node("Clip", ["product", *bounds], ["q_values"]),
    ]
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    content = make_model(nodes, arrays, (TensorProto.FLOAT, [4]), 3)
    states = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    layout = ObservationSpec(dtype="float32", shape=(4,))
    assert relative_difference(content, layout, 3, tmp_path, states) < 1e-6


FLOATS = ObservationSpec(dtype="float32", shape=(4,))


@pytest.mark.parametrize(
    "before",
    [
        helper.make_node("Softmax", ["observation"], ["made"]),
        helper.make_node("Gather", ["observation", "order"], ["made"], axis=1),
        helper.make_node("ReduceMean", ["observation", "axes"], ["made"]),
        helper.make_node("Concat", ["observation", "observation"], ["made"], axis=1),
        helper.make_node("Identity", ["observation"], ["made"]),
    ],
    ids=lambda node: node.op_type,
)
def test_an_activation_follows_any_layer(before: NodeProto, tmp_path: Path) -> None:
    width = {"ReduceMean": 1, "Concat": 8}.get(before.op_type, 4)
    weight = np.random.default_rng(0).normal(size=(width, 3)).astype(np.float32)
    arrays = {"w": weight, "order": np.array([2, 0, 1, 3]), "axes": np.array([1])}
    nodes = [
        before,
        helper.make_node("Elu", ["made"], ["bent"]),
        helper.make_node("Neg", ["bent"], ["turned"]),
        helper.make_node("MatMul", ["turned", "w"], ["q_values"]),
    ]
    used = {name: value for name, value in arrays.items() if name in {"w", *before.input}}
    content = make_model(nodes, used, (TensorProto.FLOAT, [4]), 3)
    states = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    assert relative_difference(content, FLOATS, 3, tmp_path, states) < 1e-6


@pytest.mark.parametrize(("operator", "factor"), [("Mul", 1 / 255), ("Div", 255.0)])
def test_bytes_are_scaled_where_they_are_read(operator: str, factor: float, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    arrays = {"w": weight, "factor": np.array(factor, np.float32), "shape": np.array([-1, 12])}
    nodes = [
        helper.make_node("Cast", ["observation"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node(operator, ["floats", "factor"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["q_values"]),
    ]
    content = make_model(nodes, arrays, (TensorProto.UINT8, [3, 4]), 3)
    layout = ObservationSpec(dtype="uint8", shape=(3, 4))
    assert len(lower(load_from_string(content), layout, 3).layers) == 1
    states = np.random.default_rng(1).integers(0, 256, (50, 3, 4), dtype=np.uint8)
    assert relative_difference(content, layout, 3, tmp_path, states) < 1e-6
