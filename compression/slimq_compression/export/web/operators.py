"""Which operators ONNX Runtime Web lacks, and models without them.

The WebAssembly build has almost all operators of the CPU. What it lacks was found by loading every
single-operator model of the ONNX conformance suite in it.
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
        "BitCast",
        "CausalConvWithState",
        "CumProd",
        "FlexAttention",
        "ImageDecoder",
        "LinearAttention",
        "RandomUniformLike",
        "RoiAlign",
        "SwiGLU",
        "Swish",
        "TensorScatter",
    }
)
"""Operators of the default domain without an implementation in the version that is vendored."""
DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
MAX_OPSET = 25
"""Of the default domain, of models that were run."""


@dataclass(frozen=True)
class WebModel:
    """A model that the page can run.

    Attributes:
        content: the ONNX model.
        decoded: operators of the variant that were evaluated, as they only decode weights.
    """

    content: bytes
    decoded: tuple[str, ...] = ()


class LackingError(Exception):
    """An operator of a model that the runtime lacks."""

    def __init__(self, operator: str) -> None:
        super().__init__(operator)
        self.operator = operator


def runnable(content: bytes) -> WebModel:
    """A model in a form that the runtime can run: unchanged wherever that is possible.

    Where an operator that the runtime lacks only decodes weights, the weights are stored decoded,
    as ONNX Runtime computes them: that loses nothing.

    Raises:
        LackingError: an operator works on the observation.
    """
    model = onnx.load_from_string(content)
    lacking = list(_lacking(model))
    if not lacking:
        return WebModel(content)
    decoded = decode_weights(model)
    for operator in _lacking(decoded):
        raise LackingError(operator)
    return WebModel(to_bytes(decoded), tuple(dict.fromkeys(lacking)))


def decode_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with everything that does not depend on the observation stored as it evaluates."""
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
    _lower_opset(decoded)
    return decoded


def _lower_opset(model: onnx.ModelProto) -> None:
    """States the newest opset of the runtime, if the operators left are the same in it."""
    opset = opset_of(model)
    if opset <= MAX_OPSET:
        return
    for node in model.graph.node:
        if node.domain in ("", "ai.onnx"):
            now = onnx.defs.get_schema(node.op_type, opset)
            if now.since_version > MAX_OPSET:
                return
    for domain in model.opset_import:
        if domain.domain in ("", "ai.onnx"):
            domain.version = MAX_OPSET


def _lacking(model: onnx.ModelProto) -> Iterator[str]:
    """Operators that the runtime lacks, in order of computation."""
    for node in model.graph.node:
        known = node.domain in DOMAINS
        if not known or (node.domain != "com.microsoft" and node.op_type in LACKING):
            yield operator_of(node)
    opset = opset_of(model)
    if opset > MAX_OPSET:
        yield f"set {opset} (it has operator sets up to {MAX_OPSET})"


def refuse_operator(
    repository: Repository, subject: Subject, problem: LackingError
) -> InvalidInputError:
    """The error for a variant that the runtime cannot run, with the variants that it can."""
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
