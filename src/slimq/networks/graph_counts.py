"""Counts the weights and multiply-accumulates of an ONNX graph."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import numpy_helper

WEIGHTED = ("Conv", "Gemm", "MatMul", "ConvTranspose")


def count_graph(model: onnx.ModelProto) -> tuple[int, int, int]:
    """Weights, nonzero weights, and multiply-accumulates of one observation's forward pass.

    Weights include biases. A layer whose output shape cannot be inferred counts as one
    multiply-accumulate per weight.
    """
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    shapes = _shapes(model)
    weights: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    macs = 0
    for node in model.graph.node:
        if node.op_type not in WEIGHTED:
            continue
        for name in node.input[1:3]:
            if name in stored:
                weights[name] = stored[name]
        if node.input[1] in stored:
            weight = stored[node.input[1]]
            shape = shapes.get(node.output[0], ())
            places = math.prod(shape[2:]) if node.op_type == "Conv" else 1
            macs += weight.size * places
    count = sum(values.size for values in weights.values())
    return count, sum(int(np.count_nonzero(v)) for v in weights.values()), macs


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception:  # the C++ code raises errors without a common base class
        return {}
    return {
        value.name: tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)
        for value in inferred.graph.value_info
    }
