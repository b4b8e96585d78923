"""A small graph whose weights are stored as codes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture
def coded_model() -> onnx.ModelProto:
    """`q_values = observation @ (table[codes] * scale)`, of codes 2, 0, 1, 2."""
    nodes = [
        helper.make_node("Gather", ["table", "codes"], ["flat"]),
        helper.make_node("Mul", ["flat", "scale"], ["weight"]),
        helper.make_node("MatMul", ["observation", "weight"], ["q_values"]),
    ]
    constants = {
        "table": np.array([0.0, 1.0, -1.0], np.float32),
        "codes": np.array([[2, 0], [1, 2]], np.int64),
        "scale": np.array(0.5, np.float32),
        "left_over": np.zeros(3, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "coded",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
