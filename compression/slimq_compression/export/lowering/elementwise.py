"""Lowers activations, arithmetic, normalizations and reductions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from slimq_compression.export.layers.kinds import (
    Binary,
    Clip,
    Dense,
    Function,
    Map,
    Reduce,
    Reduction,
    Unary,
)
from slimq_compression.export.layers.tensors import View, constant
from slimq_compression.export.lowering.graph import Node
from slimq_compression.export.lowering.state import Lowering, UnsupportedError
from slimq_compression.export.lowering.weighted import with_bias

FUNCTIONS: dict[str, tuple[Unary, float]] = {
    "Relu": ("relu", 0.0),
    "LeakyRelu": ("leaky_relu", 0.01),
    "Elu": ("elu", 1.0),
    "Sigmoid": ("sigmoid", 0.0),
    "Tanh": ("tanh", 0.0),
    "Gelu": ("gelu", 0.0),
    "Exp": ("exp", 0.0),
    "Sqrt": ("sqrt", 0.0),
    "Reciprocal": ("reciprocal", 0.0),
    "Neg": ("negate", 0.0),
}
"""The function of each operator, with the default of its attribute alpha."""
BINARIES: dict[str, Binary] = {
    "Add": "add",
    "Sub": "subtract",
    "Mul": "multiply",
    "Div": "divide",
}


def function(state: Lowering, node: Node) -> None:
    """Lowers an activation."""
    kind, alpha = FUNCTIONS[node.operator]
    if node.attributes.get("approximate", b"none") != b"none":
        raise UnsupportedError(node.operator, "approximated by tanh")
    step = Function(kind, node.number("alpha", alpha))
    state.apply(node.output, state.view(node), step)


def clip(state: Lowering, node: Node) -> None:
    """Lowers a Clip."""
    bounds = [state.values(node, index) for index in (1, 2)]
    low, high = (None if bound is None else float(bound.reshape(())) for bound in bounds)
    limits = Clip(-np.inf if low is None else low, np.inf if high is None else high)
    state.apply(node.output, state.view(node), limits)


def binary(state: Lowering, node: Node) -> None:
    """Lowers arithmetic on two tensors; a constant factor of integers only changes their scale."""
    first, second = state.view(node, 0), state.view(node, 1)
    scaled = _scaled(node.operator, first, second) or _scaled(node.operator, second, first)
    if scaled is not None:
        state.bind(node.output, scaled)
        return
    if node.operator == "Add" and _add_bias(state, node, first, second):
        return
    shape = np.broadcast_shapes(first.shape, second.shape)
    inputs = (first.broadcast(shape), second.broadcast(shape))
    layer = Map(inputs, state.scratch(shape), operator=BINARIES[node.operator])
    state.add(node.output, layer)


def _scaled(operator: str, source: View, factor: View) -> View | None:
    """A view of integers multiplied or divided by a constant; None for anything else."""
    if factor.buffer.values is None or factor.size != 1 or source.is_float:
        return None
    if operator not in ("Mul", "Div"):
        return None
    value, scale = np.float32(factor.buffer.values[0]), np.float32(source.scale)
    return replace(source, scale=float(scale * value if operator == "Mul" else scale / value))


def _add_bias(state: Lowering, node: Node, first: View, second: View) -> bool:
    """Adds a bias to the preceding layer, if it is a dense layer without one; returns whether."""
    source, bias = (second, first) if first.buffer.values is not None else (first, second)
    layer = state.layers[-1] if state.layers else None
    plain = isinstance(layer, Dense) and layer.bias is None and not layer.epilogue
    if not plain or not isinstance(layer, Dense) or bias.buffer.values is None:
        return False
    if layer.output.buffer is not source.buffer or bias.size != source.size:
        return False
    if state.graph.readers[node.inputs[0]] + state.graph.readers[node.inputs[1]] > 2:
        return False
    state.layers[-1] = with_bias(layer, bias.buffer.values)
    state.bind(node.output, layer.output)
    return True


def batch_normalization(state: Lowering, node: Node) -> None:
    """Lowers a batch normalization to a factor and an addend per channel."""
    gain, shift, mean, variance = (
        state.required(node, index).astype(np.float64) for index in (1, 2, 3, 4)
    )
    source = state.view(node)
    factor = gain / np.sqrt(variance + node.number("epsilon", 1e-5))
    shape = (-1, *(1,) * (len(source.shape) - 1))
    scaled = state.scratch(source.shape)
    inputs = (source, constant(factor.reshape(shape)).broadcast(source.shape))
    state.layers.append(Map(inputs, scaled, operator="multiply"))
    addend = constant((shift - mean * factor).reshape(shape)).broadcast(source.shape)
    output = state.scratch(source.shape)
    state.add(node.output, Map((scaled, addend), output, operator="add"))


def layer_normalization(state: Lowering, node: Node) -> None:
    """Lowers a layer normalization to normalized rows, a factor and an addend per element."""
    source = state.contiguous(state.view(node))
    axis = node.integer("axis", -1)
    kept = axis + len(source.shape) if axis < 0 else axis - 1
    rows = int(np.prod(source.shape[:kept], dtype=np.int64))
    flat = source.reshaped((rows, source.size // rows))
    made = state.scratch(flat.shape)
    epsilon = node.number("epsilon", 1e-5)
    state.layers.append(Reduce((flat,), made, operator="norm", epsilon=epsilon))
    operators: tuple[Binary, ...] = ("multiply", "add")
    for index, operator in enumerate(operators, start=1):
        values = state.values(node, index)
        if values is not None:
            before, made = made, state.scratch(flat.shape)
            operand = constant(values.reshape(-1)).broadcast(flat.shape)
            state.layers.append(Map((before, operand), made, operator=operator))
    state.bind(node.output, made.reshaped(source.shape))


def softmax(state: Lowering, node: Node) -> None:
    """Lowers a softmax over the last axis."""
    source = state.contiguous(state.view(node))
    if node.integer("axis", -1) not in (-1, len(source.shape)):
        raise UnsupportedError(node.operator, "over another axis than the last")
    flat = source.reshaped((source.size // source.shape[-1], source.shape[-1]))
    output = state.scratch(flat.shape)
    state.layers.append(Reduce((flat,), output, operator="softmax"))
    state.bind(node.output, output.reshaped(source.shape))


def reduce(state: Lowering, node: Node) -> None:
    """Lowers a sum or mean over some axes."""
    source, given = state.view(node), state.values(node, 1)
    axes = node.ints("axes", ()) if given is None else tuple(int(axis) for axis in given)
    places = sorted({axis % (len(source.shape) + 1) - 1 for axis in axes})
    if not places or places[0] < 0:
        raise UnsupportedError(node.operator, f"over the axes {axes}")
    others = [place for place in range(len(source.shape)) if place not in places]
    moved = state.contiguous(source.transposed([*others, *places]))
    rows = math.prod(source.shape[place] for place in others)
    flat = moved.reshaped((rows, moved.size // rows))
    output = state.scratch((rows,))
    kind: Reduction = "mean" if node.operator == "ReduceMean" else "sum"
    state.layers.append(Reduce((flat,), output, operator=kind))
    keep = node.integer("keepdims", 1)
    sizes = [1 if place in places else size for place, size in enumerate(source.shape)]
    kept = [size for place, size in enumerate(sizes) if keep or place not in places]
    state.bind(node.output, output.reshaped(kept))
