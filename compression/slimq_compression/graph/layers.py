"""Layers of a graph that are not yet encoded, and their selection in recipes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from slimq.core.errors import InvalidInputError
from slimq_compression.graph.model import WEIGHTED, coded_nodes, producers, weighted_nodes
from slimq_compression.roles import Role, chosen_layers, roles_of

DENSE = ("Gemm", "MatMul")


def float_layers(
    model: onnx.ModelProto, operators: Collection[str] = WEIGHTED
) -> dict[str, onnx.NodeProto]:
    """Layers with float weights by name, in order of computation."""
    floats = {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    return {
        node.name: node
        for node in weighted_nodes(model)
        if node.op_type in operators and node.input[1] in floats
    }


def choose_layers(
    model: onnx.ModelProto,
    wanted: Sequence[str] | None,
    place: str,
    operators: Collection[str] = WEIGHTED,
) -> dict[str, onnx.NodeProto]:
    """The layers that a recipe names, by default all that can be encoded.

    Args:
        model: the graph.
        wanted: names of layers or roles; None for all.
        place: the parameter that names them, such as `quantize_int8.layers`.
        operators: operators that the pass can encode.

    Raises:
        InvalidInputError: a named layer cannot be encoded, no named role has a layer, or no layer
            can be encoded.
    """
    available = float_layers(model, operators)
    if not available:
        expected = f"a graph with float weights in {' or '.join(operators)}"
        raise InvalidInputError(place, expected, "one without")
    if wanted is None:
        return available
    roles = layer_roles(model)
    own = {name: roles[name] for name in available}
    chosen = chosen_layers(wanted, own, place, "layers with float weights")
    return {name: available[name] for name in chosen}


def layer_roles(model: onnx.ModelProto) -> dict[str, tuple[Role, ...]]:
    """The roles of each layer by name."""
    made_by = producers(model)
    layers = weighted_nodes(model) + coded_nodes(model)
    names = {node.name for node in layers}
    inner: set[str] = set()
    first: set[str] = set()
    for node in layers:
        waiting, seen = [node.input[0]], set[str]()
        while waiting:
            before = made_by.get(waiting.pop())
            if before is None or before.name in seen:
                continue
            seen.add(before.name)
            waiting += before.input
        inner |= seen
        if names.isdisjoint(seen):
            first.add(node.name)
    return {
        node.name: roles_of(
            "convolutions" if node.op_type == "Conv" else "dense",
            first=node.name in first,
            head=node.name not in inner,
        )
        for node in layers
    }


def output_axis(node: onnx.NodeProto) -> int:
    """The output axis of a layer's weight."""
    if node.op_type == "Conv":
        return 0
    transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return 0 if transposed else 1


def weight_rows(model: onnx.ModelProto, node: onnx.NodeProto) -> npt.NDArray[np.float32]:
    """A layer's weights as `(outputs, weights per output)`."""
    stored = next(t for t in model.graph.initializer if t.name == node.input[1])
    weight = np.moveaxis(numpy_helper.to_array(stored), output_axis(node), 0)
    return np.ascontiguousarray(weight.reshape(len(weight), -1))
