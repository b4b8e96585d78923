"""The operators that ONNX Runtime Web lacks, and models rewritten without them.

The WebAssembly build has almost all operators of the CPU build. Those that it lacks were found by
loading every single-operator model of the ONNX conformance suite.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from slimq.core.errors import InvalidInputError, SlimqError
from slimq.core.repository import Repository
from slimq.networks.export import INPUT
from slimq_compression.export.lowering.graph import Graph, operator_of
from slimq_compression.export.subject import Subject
from slimq_compression.graph.model import copy_model, opset_of, remove_unused, to_bytes

LACKING = frozenset(
    {
        "Bernoulli",
        "CausalConvWithState",
        "ImageDecoder",
        "LinearAttention",
        "RandomNormalLike",
        "RandomUniformLike",
        "RoiAlign",
        "SwiGLU",
    }
)
"""Operators of the default domain that the vendored version does not implement."""
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
MAX_OPSET = 26
"""The newest opset of the default domain that it supports."""


@dataclass(frozen=True)
class WebModel:
    """A model that the page can run.

    Attributes:
        content: the ONNX model.
        decoded: operators that only decode weights and were evaluated on export.
    """

    content: bytes
    decoded: tuple[str, ...] = ()


class LackingError(Exception):
    """A model uses an operator that the runtime lacks."""

    def __init__(self, operator: str) -> None:
        super().__init__(operator)
        self.operator = operator


def runnable(content: bytes, lacking: frozenset[str] = LACKING) -> WebModel:
    """A form of a model that the runtime can run; unchanged if possible.

    Where an operator that the runtime lacks only decodes weights, the weights are stored as ONNX
    Runtime decodes them, without any loss.

    Args:
        content: the ONNX model.
        lacking: operators of the default domain that the runtime lacks.

    Raises:
        LackingError: such an operator depends on the observation.
    """
    model = onnx.load_from_string(content)
    lowered = _lower_opset(model)
    problems = list(_problems(lowered, lacking))
    if not problems:
        return WebModel(content if lowered is model else to_bytes(lowered))
    decoded = _lower_opset(decode_weights(model))
    for operator in _problems(decoded, lacking):
        raise LackingError(operator)
    return WebModel(to_bytes(decoded), tuple(dict.fromkeys(problems)))


def decode_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with everything that does not depend on the observation evaluated and stored."""
    graph, decoded = Graph(model), copy_model(model)
    reached, dynamic = {INPUT}, []
    for node in model.graph.node:
        if not reached.isdisjoint(node.input):
            reached.update(node.output)
            dynamic.append(node)
    computed = {name for name in graph.made_by if name not in reached}
    for name in sorted({name for node in dynamic for name in node.input} & computed):
        value = graph.constant(name)
        if value is not None:
            decoded.graph.initializer.append(numpy_helper.from_array(value, name))
    del decoded.graph.node[:]
    decoded.graph.node.extend(dynamic)
    remove_unused(decoded)
    return decoded


def _lower_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Declares the runtime's newest opset, if all operators are unchanged since then."""
    opset = opset_of(model)
    own = [node for node in model.graph.node if node.domain in ("", "ai.onnx")]
    if opset <= MAX_OPSET or any(_since(node, opset) > MAX_OPSET for node in own):
        return model
    lowered = copy_model(model)
    for domain in lowered.opset_import:
        if domain.domain in ("", "ai.onnx"):
            domain.version = MAX_OPSET
    return lowered


def _since(node: onnx.NodeProto, opset: int) -> int:
    """The opset in which an operator last changed."""
    try:
        return int(onnx.defs.get_schema(node.op_type, opset).since_version)
    except onnx.defs.SchemaError:
        return opset


def _problems(model: onnx.ModelProto, lacking: frozenset[str]) -> Iterator[str]:
    """The operators that the runtime lacks, in order of computation."""
    for node in model.graph.node:
        own = node.domain in ("", "ai.onnx")
        if node.domain not in DOMAINS or (own and node.op_type in lacking):
            yield operator_of(node)
    opset = opset_of(model)
    for node in model.graph.node:
        if node.domain in ("", "ai.onnx") and opset > MAX_OPSET and _since(node, opset) > MAX_OPSET:
            yield f"{operator_of(node)} of operator set {opset}"


def refuse_operator(
    repository: Repository, subject: Subject, problem: LackingError
) -> InvalidInputError:
    """The error for a variant that the runtime cannot run; lists the variants that it can."""
    variants = repository.variants(subject.policy.name)
    names = [name for name in variants if _runs(repository, subject, name)]
    return InvalidInputError(
        "variant",
        f"one without the operator {problem.operator}, which ONNX Runtime Web lacks",
        subject.name,
        f"; these do without it: {', '.join(names) or 'none'}",
    )


def _runs(repository: Repository, subject: Subject, variant: str) -> bool:
    try:
        runnable(repository.read_model(subject.policy.name, variant)[1])
    except (LackingError, SlimqError):
        return False
    return True
