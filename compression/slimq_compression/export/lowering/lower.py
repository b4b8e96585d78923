"""Lowers a variant's ONNX model to a network of typed layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx

from slimq.core.observation import ObservationSpec
from slimq.networks.export import INPUT, OUTPUT
from slimq_compression.export.layers.kinds import Layer, Map, multiply_accumulates
from slimq_compression.export.layers.tensors import ELEMENTS, Buffer, View, whole
from slimq_compression.export.lowering import elementwise, movement, weighted
from slimq_compression.export.lowering.graph import Graph, Node
from slimq_compression.export.lowering.state import Lowering, UnsupportedError
from slimq_compression.export.lowering.window import Window, find_window

OPERATORS: dict[str, Callable[[Lowering, Node], None]] = {
    "Add": elementwise.binary,
    "BatchNormalization": elementwise.batch_normalization,
    "Cast": movement.cast,
    "Clip": elementwise.clip,
    "Concat": movement.concat,
    "Conv": weighted.convolution,
    "DequantizeLinear": movement.dequantize,
    "Div": elementwise.binary,
    "Equal": movement.equal,
    "Flatten": movement.flatten,
    "Gather": movement.gather,
    "Gemm": weighted.gemm,
    "Identity": movement.identity,
    "LayerNormalization": elementwise.layer_normalization,
    "MatMul": weighted.matmul,
    "Mul": elementwise.binary,
    "QuantizeLinear": movement.quantize,
    "ReduceMean": elementwise.reduce,
    "ReduceSum": elementwise.reduce,
    "Reshape": movement.reshape,
    "Slice": movement.slice_,
    "Softmax": elementwise.softmax,
    "Sub": elementwise.binary,
    "Transpose": movement.transpose,
    "com.microsoft.DynamicQuantizeMatMul": weighted.dynamic_quantize_matmul,
    **dict.fromkeys(elementwise.FUNCTIONS, elementwise.function),
}
"""The lowering function of each operator."""


@dataclass(frozen=True)
class Network:
    """A lowered variant.

    Attributes:
        spec: layout of the observation.
        window: the part of each observation that is kept.
        observation: the buffer of that part.
        layers: layers in order of computation; the last one writes the Q-values.
        actions: number of Q-values.
    """

    spec: ObservationSpec
    window: Window
    observation: Buffer
    layers: tuple[Layer, ...]
    actions: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one forward pass."""
        return multiply_accumulates(self.layers)


def lower(model: onnx.ModelProto, spec: ObservationSpec, actions: int) -> Network:
    """Lowers a model.

    Args:
        model: a variant's model, with the input `observation` and the output `q_values`.
        spec: layout of its observation.
        actions: number of its Q-values.

    Raises:
        UnsupportedError: an operator cannot be lowered.
    """
    graph = Graph(model)
    missing = [node.operator for node in graph.nodes if node.operator not in OPERATORS]
    if missing:
        raise UnsupportedError(missing[0])
    window = find_window(graph, spec)
    size = math.prod(window.shape)
    observation = Buffer(ELEMENTS[spec.dtype], size, "observation")
    state = Lowering(graph, spec)
    state.bind(INPUT, whole(observation, window.shape))
    for node in graph.nodes:
        if node.output == window.tensor:
            state.bind(node.output, window.seen(state.views[INPUT]))
        else:
            OPERATORS[node.operator](state, node)
    _finish(state, state.views[OUTPUT], actions)
    return Network(spec, window, observation, tuple(state.layers), actions)


def _finish(state: Lowering, result: View, actions: int) -> None:
    """Makes the last layer write to the caller's buffer of Q-values."""
    last = state.layers[-1] if state.layers else None
    target = whole(Buffer("float", actions, "q_values"), (actions,))
    direct = result.is_float and result.is_plain and result.is_contiguous
    if last and direct and last.output.buffer is result.buffer and result.size == last.output.size:
        state.layers[-1] = replace(last, output=target.reshaped(last.output.shape))
        return
    state.layers.append(Map((result.reshaped((actions,)),), target))
