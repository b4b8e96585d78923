"""A variant's graph, with the part that depends only on constants evaluated."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from slimq.core.onnx_policy import make_session
from slimq.networks.export import INPUT, OUTPUT
from slimq_compression.export.layers.tensors import Array
from slimq_compression.graph.model import copy_model, opset_of, producers, remove_unused

SUB_BYTE: dict[int, type[np.generic]] = {
    TensorProto.INT2: np.int8,
    TensorProto.UINT2: np.uint8,
    TensorProto.INT4: np.int8,
    TensorProto.UINT4: np.uint8,
}
"""ONNX types that numpy lacks, and the numpy types that hold their values."""


@dataclass(frozen=True)
class Node:
    """An operator that depends on the observation."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]

    def ints(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        """An attribute that is a list of integers."""
        return tuple(int(value) for value in self.attributes.get(name, default))

    def number(self, name: str, default: float) -> float:
        """An attribute that is a float."""
        return float(self.attributes.get(name, default))

    def integer(self, name: str, default: int) -> int:
        """An attribute that is an integer."""
        return int(self.attributes.get(name, default))


class Graph:
    """The nodes that depend on the observation, and the values of those that do not.

    Attributes:
        nodes: nodes that depend on the observation, in order of computation.
        opset: opset version of the default domain.
        stored: initializers as in the file, by name.
        made_by: all nodes of the file, by output name.
        readers: number of times that each tensor is read.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.opset = opset_of(model)
        self.stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self.made_by = producers(model)
        reached = {INPUT}
        dynamic = []
        for node in model.graph.node:
            if not reached.isdisjoint(node.input):
                reached.update(node.output)
                dynamic.append(node)
        self.nodes = [_read(node) for node in dynamic]
        self.readers = collections.Counter(name for node in dynamic for name in node.input)
        self.readers[OUTPUT] += 1  # the caller
        self._constants = _evaluate(
            model, {name for node in dynamic for name in node.input}, reached
        )

    def constant(self, name: str) -> Array | None:
        """The value of a tensor; None if it depends on the observation."""
        if name in self._constants:
            return self._constants[name]
        tensor = self.stored.get(name)
        if tensor is None:
            return None
        return self._constants.setdefault(name, to_array(tensor))


def operator_of(node: onnx.NodeProto) -> str:
    """An operator's name, prefixed with its domain unless that is the default one."""
    return f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)


def to_array(tensor: onnx.TensorProto) -> Array:
    """A tensor's values in a native numpy type."""
    values: Array = numpy_helper.to_array(tensor)
    if tensor.data_type in SUB_BYTE:
        return values.astype(SUB_BYTE[tensor.data_type])
    if tensor.data_type in (TensorProto.BFLOAT16, TensorProto.FLOAT16):
        return values.astype(np.float32)
    return values


def _read(node: onnx.NodeProto) -> Node:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return Node(operator_of(node), node.name, tuple(node.input), node.output[0], attributes)


def _evaluate(model: onnx.ModelProto, wanted: set[str], dynamic: set[str]) -> dict[str, Array]:
    """Runs the part of the graph that depends on constants only."""
    made = {name for node in model.graph.node for name in node.output}
    computed = sorted(name for name in wanted & made if name not in dynamic)
    if not computed:
        return {}
    part = copy_model(model)
    del part.graph.output[:]
    del part.graph.value_info[:]
    types = onnx.shape_inference.infer_shapes(model).graph.value_info
    known = {value.name: value.type.tensor_type.elem_type for value in types}
    part.graph.output.extend(
        helper.make_tensor_value_info(name, known.get(name) or TensorProto.FLOAT, None)
        for name in computed
    )
    remove_unused(part)
    del part.graph.input[:]
    values = make_session(part.SerializeToString()).run(computed, {})
    return dict(zip(computed, values, strict=True))
