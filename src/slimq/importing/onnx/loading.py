"""Reads ONNX models with care: bounded, self-contained, without loops, functions expanded.

The checks of `slimq.core._protobuf` come before anything parses the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, version_converter

from slimq.core._protobuf import FUNCTION, find_problem, has_external_data
from slimq.core.errors import first_line
from slimq.importing.files.tensors import checked
from slimq.importing.source import refuse
from slimq.networks.export import OPSET

MIN_OPSET = 9
MAX_NODES = 50_000
"""Nodes after functions are expanded."""
FLOATS: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.FLOAT16: "float16",
}
INTEGERS: dict[int, str] = {
    TensorProto.UINT8: "uint8",
    TensorProto.INT8: "int8",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.BOOL: "bool",
}
ELEMENTS: dict[int, str] = FLOATS | INTEGERS


PASSING = frozenset(
    ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Dropout")
)
"""Operators that change the form of values, but not what they are."""
CHOICES = frozenset(("ArgMax", "TopK"))
PROBABILITIES = frozenset(("Softmax", "LogSoftmax"))
DRAWING = frozenset(("Multinomial", "Bernoulli"))
"""Operators that draw numbers, beside those whose names begin with Random."""


@dataclass(frozen=True)
class Value:
    """An input or output of a graph.

    Attributes:
        name: its name.
        element: its ONNX element type.
        shape: with the batch axis; None for an axis of any size.
    """

    name: str
    element: int
    shape: tuple[int | None, ...]

    @property
    def rest(self) -> tuple[int | None, ...]:
        """The shape without the batch axis."""
        return self.shape[1:]

    def __str__(self) -> str:
        kind = ELEMENTS.get(self.element, f"type {self.element}")
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} {kind} ({sizes})"


def parse_model(content: bytes, file: str) -> onnx.ModelProto:
    """Parses a model and expands its functions.

    Raises:
        InvalidInputError: it is not an ONNX model, has external data or subgraphs, expands to too
            much, or has weights that are not finite.
    """
    try:
        external = has_external_data(content)
        problem = find_problem(content)
    except ValueError as error:
        raise refuse(file, "an ONNX model", f"a file that {error}") from error
    if external:
        remedy = "save it with its weights: onnx.save(onnx.load(FILE), 'whole.onnx')"
        raise refuse(file, "a model that contains all its tensors", "external tensor data", remedy)
    if problem not in (None, FUNCTION):
        remedy = "export the network alone, without control flow"
        raise refuse(file, "a feed-forward model", f"one that {problem}", remedy)
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's error, whose package has no type hints
        raise refuse(file, "an ONNX model", f"a damaged one ({first_line(error)})") from error
    if not model.graph.node or not model.graph.output:
        raise refuse(file, "an ONNX model", "a file without operators or outputs")
    if model.functions:
        model = _expand(model, file)
    _check_opset(model, file)
    _check_operators(model, file)
    for tensor in model.graph.initializer:
        if tensor.data_type in FLOATS:
            checked(numpy_helper.to_array(tensor), tensor.name, file)
    return model


def _expand(model: onnx.ModelProto, file: str) -> onnx.ModelProto:
    """Expands functions, after counting what they expand to."""
    bodies = {(f.domain, f.name): f for f in model.functions}
    counts: dict[tuple[str, str], int] = {}

    def count(nodes: object, depth: int) -> int:
        total = 0
        for node in nodes:  # type: ignore[attr-defined]
            key = (node.domain, node.op_type)
            if key in bodies:
                if depth > len(bodies):
                    raise refuse(
                        file, "functions without recursion", f"{node.op_type} calls itself"
                    )
                if key not in counts:
                    counts[key] = count(bodies[key].node, depth + 1)
                total += counts[key]
            total += 1
            if total > MAX_NODES:
                raise refuse(file, f"at most {MAX_NODES:,} operators", "functions of more")
        return total

    count(model.graph.node, 0)
    try:
        expanded: onnx.ModelProto = inliner.inline_local_functions(model)
    except Exception as error:  # the C++ code raises errors without a common base class
        raise refuse(file, "functions that can be expanded", first_line(error)) from error
    problem = find_problem(expanded.SerializeToString())
    if problem is not None:
        raise refuse(file, "a feed-forward model", f"one that {problem}")
    return expanded


def _check_operators(model: onnx.ModelProto, file: str) -> None:
    for node in model.graph.node:
        if node.op_type.startswith("Random") or node.op_type in DRAWING:
            received = f"the operator {node.op_type[:64]}, which draws random numbers"
            remedy = "export the network alone, without noise or sampling"
            raise refuse(file, "a deterministic model", received, remedy)


def _check_opset(model: onnx.ModelProto, file: str) -> None:
    version = opset_of(model)
    if version < MIN_OPSET:
        remedy = f"export it again with opset_version={OPSET}"
        raise refuse(file, f"opset {MIN_OPSET} or later", str(version), remedy)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the default domain; 1 if it is not given."""
    found = (o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    return int(next(found, 1))


def to_current_opset(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str | None]:
    """The model in slimq's opset, or as it is if it cannot be converted, with the reason."""
    if opset_of(model) >= OPSET:
        return model, None
    try:
        converted: onnx.ModelProto = version_converter.convert_version(model, OPSET)
        onnx.checker.check_model(converted)
    except Exception as error:  # as above
        return model, f"kept in opset {opset_of(model)}: {first_line(error)[:120]}"
    return converted, None


def inputs_of(model: onnx.ModelProto) -> list[Value]:
    """The inputs that have no default."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [_value(info) for info in model.graph.input if info.name not in stored]


def outputs_of(model: onnx.ModelProto) -> list[Value]:
    """The outputs, with shapes inferred where the graph does not declare them."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception:  # as above; shapes are only a help here
        inferred = model
    return [_value(info) for info in inferred.graph.output]


def choose_output(model: onnx.ModelProto, wanted: str | None, file: str) -> Value:
    """The output with the Q-values.

    Args:
        model: the model.
        wanted: its name; None for the only float one with two axes.
        file: name of the file in errors.

    Raises:
        InvalidInputError: there is none, or more than one; argmax and softmax are no Q-values.
    """
    outputs = outputs_of(model)
    listing = ", ".join(map(str, outputs))
    if wanted is not None:
        outputs = [value for value in outputs if value.name == wanted]
        if not outputs:
            raise refuse("--output", f"one of {listing}", repr(wanted))
    made_by = {value.name: _maker_of(model, value.name) for value in outputs}
    fitting = [v for v in outputs if v.element in FLOATS and len(v.shape) in (0, 2)]
    chosen = CHOICES & set(made_by.values()) or all(v.element in INTEGERS for v in outputs)
    fitting = [value for value in fitting if made_by[value.name] not in CHOICES]
    if not fitting:
        if chosen:
            received = f"only the chosen action ({listing})"
            remedy = "export the values before the argmax"
            raise refuse(file, "an output of Q-values, float (batch, actions)", received, remedy)
        raise refuse(file, "an output of Q-values, float (batch, actions)", listing)
    if len(fitting) > 1:
        raise refuse(file, "one output of Q-values", listing, "name it with --output")
    if made_by[fitting[0].name] in PROBABILITIES:
        received = f"probabilities of actions in {fitting[0].name!r}"
        raise refuse(file, "an output of Q-values", received, "export the values of a DQN")
    return fitting[0]


def _maker_of(model: onnx.ModelProto, name: str) -> str:
    """The operator that makes a value, before those that change its form alone; empty if none."""
    nodes = {output: node for node in model.graph.node for output in node.output}
    for _ in nodes:  # a graph that is not checked yet may have a cycle
        node = nodes.get(name)
        if node is None or node.op_type not in PASSING or not node.input:
            return "" if node is None else str(node.op_type)
        name = node.input[0]
    return ""


def constants_of(model: onnx.ModelProto) -> Mapping[str, TensorProto]:
    """Initializers by name, and the values of Constant nodes."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            tensor = _constant(node)
            if tensor is not None:
                found[node.output[0]] = tensor
    return found


def _constant(node: onnx.NodeProto) -> TensorProto | None:
    name = node.output[0]
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            made = TensorProto()
            made.CopyFrom(value)
            made.name = name
            return made
        kinds = {"float": TensorProto.FLOAT, "int": TensorProto.INT64}
        for kind, element in kinds.items():
            if attribute.name == f"value_{kind}":
                return helper.make_tensor(name, element, [], [value])
            if attribute.name == f"value_{kind}s":
                return helper.make_tensor(name, element, [len(value)], value)
    return None


def _value(info: onnx.ValueInfoProto) -> Value:
    kind = info.type.tensor_type
    sizes = tuple(
        int(d.dim_value) if d.HasField("dim_value") and d.dim_value > 0 else None
        for d in kind.shape.dim
    )
    return Value(info.name, int(kind.elem_type), sizes)
