"""What graph passes and the accounting need to know about an ONNX graph."""

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
"""Operators whose second input (and third, the bias) are weights."""

RUN_BATCH = 64


def to_bytes(model: onnx.ModelProto) -> bytes:
    """The model as a file: without doc strings, by this producer, the same bytes every time."""
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
    """The version of the default domain."""
    return next(int(opset.version) for opset in model.opset_import if opset.domain == "")


def raise_opset(model: onnx.ModelProto, least: int) -> None:
    """Sees that the default domain has at least this version; changes `model`."""
    for domain in model.opset_import:
        if domain.domain == "" and domain.version < least:
            domain.version = least
            needed = helper.find_min_ir_version_for([domain])
            model.ir_version = max(model.ir_version, needed)


def copy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model of its own."""
    own = onnx.ModelProto()
    own.CopyFrom(model)
    return own


def weighted_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The layers in order of computation."""
    return [node for node in model.graph.node if node.op_type in WEIGHTED]


def coded_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The layers that are one operator on integer codes, in order of computation."""
    return [node for node in model.graph.node if node.op_type in integer_layers.CODED]


def run_tensors(
    model: onnx.ModelProto, tensors: Sequence[str], states: Observations
) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """Values of inner float tensors, for one batch of `states` after another."""
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
    """The node that computes each tensor."""
    return {output: node for node in model.graph.node for output in node.output}


def remove_unused(model: onnx.ModelProto) -> None:
    """Drops nodes that nothing needs, and initializers that no node reads; changes `model`."""
    _transform(model, common_passes.RemoveUnusedNodesPass())


def sort_nodes(model: onnx.ModelProto) -> None:
    """Puts nodes in order of computation, otherwise as they were; changes `model`.

    What depends on constants alone comes first, as the decoders of stored weights do.

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
    """Runs a pass of onnx_ir, which keeps names, tensors and order as they are."""
    model.CopyFrom(onnx_ir.to_proto(change(onnx_ir.from_proto(model)).model))


def sources_of(name: str, made_by: dict[str, onnx.NodeProto]) -> set[str]:
    """The initializers and graph inputs that a tensor is computed from."""
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
