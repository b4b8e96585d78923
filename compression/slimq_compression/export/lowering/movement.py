"""Lowers operators that move, select or reinterpret elements; most become free views."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from slimq_compression.export.layers.kinds import Map, OneHot, Quantize, Run, Take
from slimq_compression.export.layers.tensors import ELEMENTS, Array, View
from slimq_compression.export.lowering.graph import Node
from slimq_compression.export.lowering.state import Lowering, Picked, UnsupportedError

FLOAT = 1
"""ONNX's number for float32."""


def identity(state: Lowering, node: Node) -> None:
    """Lowers an Identity: the same tensor under another name."""
    state.bind(node.output, state.view(node))


def cast(state: Lowering, node: Node) -> None:
    """Lowers a Cast to float, which happens when elements are read."""
    if node.integer("to", FLOAT) != FLOAT:
        raise UnsupportedError(node.operator, f"to type {node.integer('to', FLOAT)}")
    state.bind(node.output, state.view(node))


def dequantize(state: Lowering, node: Node) -> None:
    """Lowers a DequantizeLinear: the view of the codes gets the scale and the zero point."""
    source, scale = state.view(node), state.required(node, 1)
    zero = state.values(node, 2)
    if scale.size != 1 or source.is_float or not source.is_plain:
        raise UnsupportedError(node.operator, "activations with a scale per channel")
    point = 0 if zero is None else int(zero.reshape(()))
    state.bind(node.output, replace(source, scale=float(scale.reshape(())), zero=point))


def quantize(state: Lowering, node: Node) -> None:
    """Lowers a QuantizeLinear, unless the values are already codes of this scale."""
    source, scale = state.view(node), state.required(node, 1)
    zero = state.values(node, 2)
    if scale.size != 1:
        raise UnsupportedError(node.operator, "activations with a scale per channel")
    bits, kind = _code_type(state, node, zero)
    low, high = (0, 2**bits - 1) if kind == "uint8" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    point = 0 if zero is None else int(zero.reshape(()))
    factor, element = float(scale.reshape(())), ELEMENTS[kind]
    if (source.buffer.element, source.scale, source.zero) == (element, factor, point):
        state.bind(node.output, replace(source, scale=1.0, zero=0))
        return
    state.apply(node.output, source, Quantize(factor, point, element, low, high))


def _code_type(state: Lowering, node: Node, zero: Array | None) -> tuple[int, str]:
    """Bits and numpy type of codes, from the zero point's type."""
    stored = state.graph.stored.get(node.inputs[2]) if zero is not None else None
    names = {2: (8, "uint8"), 3: (8, "int8"), 21: (4, "uint8"), 22: (4, "int8")}
    code = 2 if stored is None else int(stored.data_type)
    if code not in names:
        raise UnsupportedError(node.operator, f"to type {code}")
    return names[code]


def reshape(state: Lowering, node: Node) -> None:
    """Lowers a Reshape that keeps the batch axis."""
    shape = [int(size) for size in state.required(node, 1)]
    source = state.view(node)
    if shape[0] not in (-1, 0, 1) or (shape[0] == 1 and -1 in shape):
        raise UnsupportedError(
            node.operator, f"to shape {shape}, whose first axis is not the batch"
        )
    sizes = [source.shape[i - 1] if shape[i] == 0 else shape[i] for i in range(1, len(shape))]
    if -1 in sizes:
        known = -math.prod(sizes)
        sizes[sizes.index(-1)] = source.size // known
    if math.prod(sizes) != source.size:
        raise UnsupportedError(node.operator, f"to shape {shape}, which joins rows of a batch")
    state.bind(node.output, state.contiguous(source).reshaped(sizes))


def flatten(state: Lowering, node: Node) -> None:
    """Lowers a Flatten of all axes but the batch."""
    if node.integer("axis", 1) != 1:
        raise UnsupportedError(node.operator, f"at axis {node.integer('axis', 1)}")
    source = state.contiguous(state.view(node))
    state.bind(node.output, source.reshaped((source.size,)))


def transpose(state: Lowering, node: Node) -> None:
    """Lowers a Transpose that keeps the batch axis first."""
    source = state.view(node)
    order = node.ints("perm", tuple(reversed(range(len(source.shape) + 1))))
    if order[0] != 0:
        raise UnsupportedError(node.operator, "of the batch axis")
    state.bind(node.output, source.transposed([axis - 1 for axis in order[1:]]))


def slice_(state: Lowering, node: Node) -> None:
    """Lowers a Slice along axes after the batch."""
    source = state.view(node)
    starts, stops = ([int(v) for v in state.required(node, index)] for index in (1, 2))
    axes, steps = state.values(node, 3), state.values(node, 4)
    chosen = [int(v) for v in axes] if axes is not None else list(range(len(starts)))
    strides = [int(v) for v in steps] if steps is not None else [1] * len(starts)
    for axis, start, stop, step in zip(chosen, starts, stops, strides, strict=True):
        place = axis % (len(source.shape) + 1) - 1
        if place < 0 or step < 1:
            raise UnsupportedError(node.operator, "of the batch axis, or backwards")
        first, last, _ = slice(start, stop, step).indices(source.shape[place])
        source = source.sliced(place, first, max(first, last), step)
    state.bind(node.output, source)


def gather(state: Lowering, node: Node) -> None:
    """Lowers a Gather along the first axis after the batch; Equal reads entries in place."""
    indices = state.required(node, 1)
    if node.integer("axis", 0) != 1 or indices.ndim != 1:
        raise UnsupportedError(node.operator, "with other than a list of indices along axis 1")
    source = state.view(node)
    picked = tuple(int(index) % source.shape[0] for index in indices)
    if state.graph.readers[node.output] == 1 and _reader(state, node.output) == "Equal":
        state.picked[node.output] = Picked(source, picked)
        return
    source = state.contiguous(source)
    output = state.scratch((len(picked), *source.shape[1:]), source.buffer.element)
    plain = replace(source, scale=1.0, zero=0)
    state.layers.append(Take((plain,), output, indices=picked))
    state.bind(node.output, replace(output, scale=source.scale, zero=source.zero))


def _reader(state: Lowering, name: str) -> str:
    return next(node.operator for node in state.graph.nodes if name in node.inputs)


def equal(state: Lowering, node: Node) -> None:
    """Lowers an Equal that one-hot encodes gathered elements."""
    picked, values = state.picked.get(node.inputs[0]), state.required(node, 1)
    if picked is None or len(picked.source.shape) != 1 or not picked.source.is_plain:
        raise UnsupportedError(node.operator, "of other than picked elements and values")
    source = state.contiguous(picked.source)
    runs = one_hot_runs(picked.indices, np.asarray(values).reshape(-1))
    state.add(node.output, OneHot((source,), state.scratch((len(values),), "uint8_t"), runs=runs))


def one_hot_runs(elements: tuple[int, ...], values: Array) -> tuple[Run, ...]:
    """Groups codes of one element whose values are consecutive integers.

    Args:
        elements: index of the element that each code compares.
        values: value for which each code is 1.
    """
    runs: list[Run] = []
    for element, value in zip(elements, values.tolist(), strict=True):
        if value != int(value):
            raise UnsupportedError("Equal", f"with {value}, which is not an integer")
        last = runs[-1] if runs else None
        if last and last.element == element and last.first + last.count == int(value):
            runs[-1] = replace(last, count=last.count + 1)
        else:
            runs.append(Run(element, int(value), 1))
    return tuple(runs)


def concat(state: Lowering, node: Node) -> None:
    """Lowers a Concat along the first axis after the batch to copies."""
    if node.integer("axis", 1) != 1:
        raise UnsupportedError(node.operator, f"along axis {node.integer('axis', 1)}")
    parts = [state.view(node, index) for index in range(len(node.inputs))]
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    output = state.scratch(shape)
    start = 0
    for part in parts:
        target: View = output.sliced(0, start, start + part.shape[0])
        state.layers.append(Map((part,), target))
        start += part.shape[0]
    state.bind(node.output, output)
