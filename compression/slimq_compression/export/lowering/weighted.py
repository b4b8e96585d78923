"""Lowers operators with weights: convolutions and dense layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from slimq_compression.export.layers.kinds import Convolution, Dense, DynamicDense, Geometry, Map
from slimq_compression.export.layers.tensors import Array
from slimq_compression.export.layers.weights import Weights
from slimq_compression.export.lowering.graph import Graph, Node
from slimq_compression.export.lowering.state import Lowering, UnsupportedError
from slimq_compression.export.lowering.stored_weights import find_weights


def convolution(state: Lowering, node: Node) -> None:
    """Lowers a two-dimensional convolution."""
    source, weight = state.view(node), state.required(node, 1)
    if weight.ndim != 4:
        raise UnsupportedError(node.operator, f"with {weight.ndim - 2} axes instead of 2")
    automatic = node.attributes.get("auto_pad", b"NOTSET")
    if automatic not in (b"NOTSET", b"VALID"):
        raise UnsupportedError(node.operator, f"auto_pad={automatic.decode()}")
    pads = node.ints("pads", (0, 0, 0, 0))
    strides, dilations = node.ints("strides", (1, 1)), node.ints("dilations", (1, 1))
    kernel = weight.shape[2:]
    geometry = Geometry(
        (kernel[0], kernel[1]),
        (strides[0], strides[1]),
        (pads[0], pads[1]),
        (dilations[0], dilations[1]),
        node.integer("group", 1),
    )
    spans = [dilations[axis] * (kernel[axis] - 1) + 1 for axis in (0, 1)]
    sizes = [
        (source.shape[axis + 1] + pads[axis] + pads[axis + 2] - spans[axis]) // strides[axis] + 1
        for axis in (0, 1)
    ]
    layer = Convolution(
        (source,),
        state.scratch((len(weight), *sizes)),
        weights=find_weights(state.graph, node.inputs[1]),
        geometry=geometry,
        **_biases(state, node),
    )
    state.add(node.output, layer)


def gemm(state: Lowering, node: Node) -> None:
    """Lowers a Gemm: a dense layer, with or without a bias."""
    if node.integer("transA", 0):
        raise UnsupportedError(node.operator, "with transA")
    transposed = not node.integer("transB", 0)
    state.required(node, 1)
    weights = find_weights(state.graph, node.inputs[1], transposed=transposed)
    if (alpha := node.number("alpha", 1.0)) != 1.0:
        weights = weights.scaled(alpha)
    biases = _biases(state, node)
    if (beta := node.number("beta", 1.0)) != 1.0 and biases["bias"] is not None:
        biases = {"bias": biases["bias"] * np.float32(beta)}
    _dense(state, node, weights, biases)


def matmul(state: Lowering, node: Node) -> None:
    """Lowers a MatMul: a dense layer, to which a following Add may give a bias."""
    state.required(node, 1)
    _dense(state, node, find_weights(state.graph, node.inputs[1], transposed=True), {})


def _dense(state: Lowering, node: Node, weights: Weights, biases: dict[str, Any]) -> None:
    source = state.contiguous(state.view(node))
    if source.shape != (weights.columns,):
        expected = f"{weights.columns} inputs per row, received shape {source.shape}"
        raise UnsupportedError(node.operator, f"expected {expected}")
    output = state.scratch((weights.rows,))
    state.add(node.output, Dense((source,), output, weights=weights, **biases))


def dynamic_quantize_matmul(state: Lowering, node: Node) -> None:
    """Lowers a DynamicQuantizeMatMul, whose inputs are quantized on the fly."""
    codes, scale = state.required(node, 1), state.required(node, 2)
    zero, bias = state.values(node, 3), state.values(node, 4)
    if zero is not None and np.any(zero):
        raise UnsupportedError(node.operator, "with zero points of the weights")
    columns, rows = codes.shape
    plain = np.ascontiguousarray(codes.T).reshape(-1)
    weights = Weights(rows, columns, plain, scale=scale.reshape(-1).astype(np.float32))
    source = state.view(node)
    if source.shape != (columns,):
        raise UnsupportedError(node.operator, f"of an input of shape {source.shape}")
    if source.size != source.buffer.size or not (source.is_float and source.is_plain):
        # The range is taken over a whole buffer of floats.
        copied = state.scratch(source.shape)
        state.layers.append(Map((source,), copied))
        source = copied
    quantized = state.scratch((columns,), "uint8_t")
    output = state.scratch((rows,))
    layer = DynamicDense((source, quantized), output, weights=weights, bias=bias)
    state.add(node.output, layer)


def _biases(state: Lowering, node: Node) -> dict[str, Any]:
    """The bias as floats, and as integers if it is stored in units of the sums of products."""
    bias = state.values(node, 2)
    if bias is None:
        return {"bias": None}
    return {"bias": bias.reshape(-1).astype(np.float32), "integer_bias": _codes(state.graph, node)}


def _codes(graph: Graph, node: Node) -> Array | None:
    """The integer codes of a dequantized bias, for layers that sum integers; None for others."""
    made = graph.made_by.get(node.inputs[2])
    if made is None or made.op_type != "DequantizeLinear":
        return None
    codes = graph.constant(made.input[0])
    if codes is None or codes.dtype != np.int32:
        return None
    return codes.reshape(-1)


def with_bias(layer: Dense, bias: Array) -> Dense:
    """A dense layer that adds a bias."""
    return replace(layer, bias=bias.reshape(-1).astype(np.float32))
