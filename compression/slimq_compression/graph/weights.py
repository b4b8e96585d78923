"""Decodes, counts and describes a graph's weights, however they are stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from slimq.core.onnx_policy import make_session
from slimq.networks.export import INPUT
from slimq_compression.graph import integer_layers
from slimq_compression.graph.model import (
    coded_nodes,
    copy_model,
    producers,
    remove_unused,
    sources_of,
    weighted_nodes,
)

_PRECISIONS = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "int4",
    TensorProto.INT2: "int2",
    TensorProto.UINT2: "int2",
}
_PLACES = ("BitwiseAnd", "CumSum")
"""Operators of decoders that compute the positions of weights, not their values."""


def decoded_weights(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    """Decodes the weights and biases that the layers compute with.

    Their computation (dequantization, codebooks, masks) depends only on constants, so that part of
    the graph is run here. Weights of integer operators are decoded directly.

    Returns:
        Weights and biases by tensor name, as the layers see them.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    made_by = producers(model)
    wanted = {
        name for node in weighted_nodes(model) for name in node.input[1:3] if name and name != INPUT
    }
    values = {
        name: onnx.numpy_helper.to_array(stored[name]) for name in sorted(wanted & stored.keys())
    }
    computed = sorted(
        name for name in wanted - stored.keys() if sources_of(name, made_by).isdisjoint({INPUT})
    )
    if computed:
        decoder = copy_model(model)
        del decoder.graph.output[:]
        del decoder.graph.value_info[:]
        decoder.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in computed
        )
        remove_unused(decoder)
        del decoder.graph.input[:]
        session = make_session(decoder.SerializeToString())
        values |= dict(zip(computed, session.run(computed, {}), strict=True))
    for node in coded_nodes(model):
        values |= integer_layers.decode(node, stored)
    return values


def count_weights(model: onnx.ModelProto) -> tuple[int, int]:
    """Counts weights and biases, and the nonzero ones."""
    weights = decoded_weights(model).values()
    return sum(w.size for w in weights), sum(int(np.count_nonzero(w)) for w in weights)


def describe_precision(model: onnx.ModelProto) -> str:
    """Precision of the stored weights, such as `int8`, or `fp32+int8` if layers differ."""
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    made_by = {k: node for k, node in producers(model).items() if node.op_type not in _PLACES}
    found = set()
    for node in weighted_nodes(model):
        sources = sources_of(node.input[1], made_by)
        types = [stored[name] for name in sources if name in stored]
        # Scales are floats next to codes: the narrowest type is the weights' own.
        narrow = [_PRECISIONS[t] for t in types if t in _PRECISIONS]
        found.add(min(narrow, key=lambda name: int(name.strip("fpbint"))) if narrow else "other")
    found |= {integer_layers.precision(node) for node in coded_nodes(model)}
    return "+".join(sorted(found)) or "other"
