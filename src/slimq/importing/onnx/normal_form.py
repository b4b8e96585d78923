"""Brings an ONNX model to slimq's form: `observation` to `q_values`, with a dynamic batch axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from slimq.core.observation import ObservationSpec
from slimq.importing.onnx.inputs import Feed, nodes_of
from slimq.importing.onnx.loading import Value, constants_of
from slimq.networks.export import INPUT, OUTPUT, PRODUCER


def normalize(
    model: onnx.ModelProto,
    feeds: Sequence[Feed],
    output: Value,
    observation: ObservationSpec,
    actions: int,
) -> onnx.ModelProto:
    """The model as slimq publishes it; the given one is not modified.

    Args:
        model: functions expanded, in slimq's opset.
        feeds: the plan for its inputs.
        output: its output with the Q-values.
        observation: layout of the observations.
        actions: number of actions.
    """
    own = onnx.ModelProto()
    own.CopyFrom(model)
    graph = own.graph
    _store_constants(own)
    _free_names(own, {INPUT, OUTPUT})
    renamed = {INPUT: f"slimq.{INPUT}", OUTPUT: f"slimq.{OUTPUT}"}
    source = renamed.get(output.name, output.name)
    if any(feed.value.shape[0] == 1 for feed in feeds):
        _free_batch(own)
    front: list[onnx.NodeProto] = []
    for number, feed in enumerate(feeds, start=1):
        target = renamed.get(feed.value.name, feed.value.name)
        nodes, constants = nodes_of(feed, number, INPUT, observation)
        last = nodes[-1].output[0] if nodes else INPUT  # type: ignore[attr-defined]
        front.extend(nodes)  # type: ignore[arg-type]
        graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name == target:
                    node.input[index] = last
    back = _output_nodes(source, output.element, graph)
    nodes_in_order = [*front, *graph.node, *back]
    del graph.node[:]
    graph.node.extend(nodes_in_order)
    del graph.value_info[:], graph.input[:], graph.output[:]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(observation.dtype))
    shape: list[str | int | None] = ["batch", *observation.shape]
    graph.input.append(helper.make_tensor_value_info(INPUT, element, shape))
    graph.output.append(
        helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", actions])
    )
    graph.name = "q_network"
    _drop_unused(graph)
    _tidy(own)
    return own


def _output_nodes(source: str, element: int, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Names the output; the operator that makes it gets the name where nothing else reads it."""
    if element != TensorProto.FLOAT:
        return [helper.make_node("Cast", [source], [OUTPUT], name=OUTPUT, to=TensorProto.FLOAT)]
    read = any(source in node.input for node in graph.node)
    for node in graph.node:
        if source in node.output and not read:
            node.output[list(node.output).index(source)] = OUTPUT
            return []
    return [helper.make_node("Identity", [source], [OUTPUT], name=OUTPUT)]


def _store_constants(model: onnx.ModelProto) -> None:
    """Turns Constant nodes to initializers."""
    constants = constants_of(model)
    stored = {tensor.name for tensor in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] in constants:
            if node.output[0] not in stored:
                model.graph.initializer.append(constants[node.output[0]])
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _free_names(model: onnx.ModelProto, names: set[str]) -> None:
    """Renames tensors that have slimq's own names."""
    for node in model.graph.node:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                if name in names:
                    values[index] = f"slimq.{name}"
    for tensor in model.graph.initializer:
        if tensor.name in names:
            tensor.name = f"slimq.{tensor.name}"


def _free_batch(model: onnx.ModelProto) -> None:
    """Replaces a batch of 1 in the target shapes of Reshape; whether that holds is measured."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    added: list[TensorProto] = []
    for node in model.graph.node:
        if node.op_type != "Reshape" or len(node.input) < 2 or node.input[1] not in stored:
            continue
        shape = numpy_helper.to_array(stored[node.input[1]]).astype(np.int64).ravel()
        if len(shape) < 2 or shape[0] != 1:
            continue
        freed = shape.copy()
        freed[0] = 0 if -1 in shape[1:] else -1
        name = f"slimq.shape{len(added) + 1}"
        added.append(numpy_helper.from_array(freed, name))
        node.input[1] = name
        kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(kept)
    model.graph.initializer.extend(added)


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Removes operators and tensors that the output does not depend on."""
    needed = {OUTPUT}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    del graph.sparse_initializer[:]


def _tidy(model: onnx.ModelProto) -> None:
    """Names every operator, and drops what is no part of the computation."""
    names: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in names:
            node.name = f"{node.op_type.lower()}{index}"
        names.add(node.name)
        node.ClearField("doc_string")
        del node.metadata_props[:]
    del model.metadata_props[:], model.training_info[:], model.graph.metadata_props[:]
    model.ClearField("doc_string")
    model.graph.ClearField("doc_string")
    model.ClearField("producer_version")
    model.producer_name = PRODUCER
    used = {node.domain for node in model.graph.node}
    kept = [o for o in model.opset_import if o.domain in ("", "ai.onnx") or o.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    default = [helper.make_opsetid(o.domain, o.version) for o in kept if o.domain == ""]
    model.ir_version = max(min(model.ir_version, 11), helper.find_min_ir_version_for(default))
