"""Queries and edits of ONNX graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir
from onnx import TensorProto, helper
from onnx_ir import passes
from onnx_ir.passes import common as common_passes

from slimq.core.observation import Observations
from slimq.core.onnx_policy import make_session
from slimq.networks.export import INPUT, PRODUCER
from slimq_compression.graph import integer_layers

WEIGHTED = ("Conv", "Gemm", "MatMul")
"""Operators whose second input is a weight, and whose third, if any, is a bias."""

RUN_BATCH = 64


def to_bytes(model: onnx.ModelProto) -> bytes:
    """Serializes a model deterministically, without doc strings and metadata."""
    own = onnx.ModelProto()
    own.CopyFrom(model)
    own.producer_name = PRODUCER
    own.ClearField("producer_version")
    for noted in (own, own.graph, *own.graph.node):
        noted.ClearField("doc_string")
    del own.graph.value_info[:]
    del own.metadata_props[:]
    onnx.checker.check_model(own)
    return bytes(own.SerializeToString(deterministic=True))


def opset_of(model: onnx.ModelProto) -> int:
    """Opset version of the default domain."""
    return next(int(opset.version) for opset in model.opset_import if opset.domain == "")


def raise_opset(model: onnx.ModelProto, minimum: int) -> None:
    """Raises the default domain's opset to at least `minimum`; modifies `model`."""
    for domain in model.opset_import:
        if domain.domain == "" and domain.version < minimum:
            domain.version = minimum
            needed = helper.find_min_ir_version_for([domain])
            model.ir_version = max(model.ir_version, needed)


def copy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """A deep copy of the model."""
    own = onnx.ModelProto()
    own.CopyFrom(model)
    return own


def weighted_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Layers with weights, in order of computation."""
    return [node for node in model.graph.node if node.op_type in WEIGHTED]


def coded_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Layers that are one operator on integer codes, in order of computation."""
    return [node for node in model.graph.node if node.op_type in integer_layers.CODED]


def run_tensors(
    model: onnx.ModelProto, tensors: Sequence[str], states: Observations
) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """Yields the values of inner float tensors, batch by batch of `states`."""
    exposed = copy_model(model)
    present = {value.name for value in exposed.graph.output}
    exposed.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in tensors
        if name not in present
    )
    session = make_session(exposed.SerializeToString())
    for start in range(0, len(states), RUN_BATCH):
        values = session.run(list(tensors), {INPUT: states[start : start + RUN_BATCH]})
        yield dict(zip(tensors, values, strict=True))


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Nodes by the name of each output."""
    return {output: node for node in model.graph.node for output in node.output}


def remove_unused(model: onnx.ModelProto) -> None:
    """Removes unused nodes and initializers; modifies `model`."""
    _transform(model, common_passes.RemoveUnusedNodesPass())


def sort_nodes(model: onnx.ModelProto) -> None:
    """Sorts nodes topologically, otherwise keeping their order; modifies `model`.

    Nodes that depend only on constants come first, such as decoders of stored weights.

    Raises:
        ValueError: the graph has a cycle.
    """
    made_by = producers(model)
    nodes = sorted(
        model.graph.node,
        key=lambda node: any(INPUT in sources_of(name, made_by) for name in node.input),
    )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _transform(model, common_passes.TopologicalSortPass())


def _transform(model: onnx.ModelProto, change: passes.PassBase) -> None:
    """Runs an onnx_ir pass, which keeps names, tensors and order; modifies `model`."""
    model.CopyFrom(onnx_ir.to_proto(change(onnx_ir.from_proto(model)).model))


def sources_of(name: str, made_by: dict[str, onnx.NodeProto]) -> set[str]:
    """Names of the initializers and graph inputs that a tensor is computed from."""
    found, waiting, seen = set(), [name], {name}
    while waiting:
        current = waiting.pop()
        node = made_by.get(current)
        if node is None:
            found.add(current)
            continue
        fresh = [tensor for tensor in node.input if tensor and tensor not in seen]
        seen.update(fresh)
        waiting += fresh
    return found
