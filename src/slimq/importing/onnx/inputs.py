"""The inputs of an ONNX model and slimq's one observation: which part goes where, and how.

The same plan feeds the original model from arrays, for the check, and is built into the graph that
is published.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from slimq.core.observation import Dtype, ObservationPart, Observations, ObservationSpec
from slimq.importing.onnx.loading import ELEMENTS, FLOATS, Value
from slimq.importing.source import describe_layout, refuse


@dataclass(frozen=True)
class Feed:
    """How one input of the model is made from flat observations, or from the whole array.

    Attributes:
        value: the model's input.
        columns: the part's elements in a flat observation; None for the whole observation.
        shape: of the input, without the batch axis.
        transpose: whether images with the channels last become channels first.
        divisor: the values are divided by it; 1 to leave them.
    """

    value: Value
    columns: slice | None
    shape: tuple[int, ...]
    transpose: bool
    divisor: float

    def array(self, batch: Observations) -> npt.NDArray[np.generic]:
        """The input's array for observations `(batch, *shape)`."""
        values = batch if self.columns is None else batch[:, self.columns]
        if self.transpose:
            shape = (*self.shape[1:], self.shape[0])
            values = values.reshape(len(batch), *shape).transpose(0, 3, 1, 2)
        values = values.reshape(len(batch), *self.shape)
        if self.divisor != 1.0:
            values = values.astype(np.float32) / np.float32(self.divisor)
        made: npt.NDArray[np.generic] = np.ascontiguousarray(
            values.astype(ELEMENTS[self.value.element])
        )
        return made


def element_dtype(element: int) -> Dtype:
    """The dtype with which slimq sends what an input takes."""
    if element in FLOATS:
        return "float32"
    return "uint8" if element in (TensorProto.UINT8, TensorProto.BOOL) else "int32"


def check_inputs(inputs: Sequence[Value], file: str) -> None:
    """Refuses inputs that observations cannot be.

    Raises:
        InvalidInputError: an input has no batch axis, or another element type.
    """
    if not inputs:
        raise refuse(file, "an input for observations", "none")
    for value in inputs:
        if value.element not in ELEMENTS:
            raise refuse(file, f"inputs of {', '.join(ELEMENTS.values())}", str(value))
        if not value.shape:
            raise refuse(file, "inputs with a batch axis and a known number of axes", str(value))
    fixed = {value.shape[0] for value in inputs if value.shape[0] not in (None, 1)}
    if fixed:
        received = ", ".join(map(str, inputs))
        remedy = "export it with a batch of 1 or a dynamic batch axis"
        raise refuse(file, "a batch axis that is dynamic or 1", received, remedy)


def layout_of_inputs(inputs: Sequence[Value]) -> ObservationSpec | None:
    """The observations that a model describes; None if a size is unknown."""
    if any(size is None for value in inputs for size in value.rest):
        return None
    shapes = [tuple(size for size in value.rest if size is not None) for value in inputs]
    if len(inputs) == 1:
        dtype = element_dtype(inputs[0].element)
        low, high = (0.0, 1.0) if inputs[0].element == TensorProto.BOOL else (None, None)
        return ObservationSpec(dtype=dtype, shape=shapes[0] or (1,), low=low, high=high)
    parts = []
    for value, shape in zip(inputs, shapes, strict=True):
        integer = value.element not in FLOATS
        low, high = (0.0, 255.0) if value.element == TensorProto.UINT8 else (None, None)
        if value.element == TensorProto.BOOL:
            low, high = 0.0, 1.0
        parts.append(
            ObservationPart(name=value.name, shape=shape, integer=integer, low=low, high=high)
        )
    dtypes = [element_dtype(value.element) for value in inputs]
    dtype = "float32" if "float32" in dtypes else "int32" if "int32" in dtypes else "uint8"
    return ObservationSpec(
        dtype=dtype, shape=(sum(part.size for part in parts),), parts=tuple(parts)
    )


def plan_feeds(
    inputs: Sequence[Value], observation: ObservationSpec, divisor: float | None, file: str
) -> list[Feed]:
    """Assigns the observation, or its parts, to the model's inputs.

    Args:
        inputs: of the model.
        observation: layout of the observations at hand.
        divisor: what pixels are divided by; None if the user did not say.
        file: name of the file in errors.

    Raises:
        InvalidInputError: they do not fit, or the divisor is needed.
    """
    if len(inputs) == 1:
        return [_feed(inputs[0], None, observation.shape, observation, divisor, file)]
    parts = observation.parts or ()
    slices = observation.part_slices()
    if len(parts) != len(inputs):
        received = describe_layout(observation)
        listing = ", ".join(map(str, inputs))
        raise refuse(file, f"observations for the inputs {listing}", received)
    return [
        _feed(value, slices[part.name], part.shape, observation, divisor, file, part)
        for value, part in _pair(inputs, parts, file)
    ]


def _pair(
    inputs: Sequence[Value], parts: Sequence[ObservationPart], file: str
) -> list[tuple[Value, ObservationPart]]:
    """Pairs every input with a part of its own: by name, else by shape if only one is left."""
    by_name = {part.name: part for part in parts}
    named = {value.name for value in inputs} & set(by_name)
    rest = [part for part in parts if part.name not in named]
    pairs: list[tuple[Value, ObservationPart]] = []
    for value in inputs:
        fitting = [part for part in rest if _fits(value.rest, part.shape)]
        if value.name in named:
            fitting = [by_name[value.name]]
        taken = [part.name for _, part in pairs]
        if len(fitting) != 1 or fitting[0].name in taken:
            received = ", ".join(f"{part.name} {part.shape}" for part in parts)
            remedy = "give the environment's keys the names of the inputs"
            raise refuse(file, f"a part named or shaped as {value}", received, remedy)
        pairs.append((value, fitting[0]))
    return pairs


def _feed(
    value: Value,
    columns: slice | None,
    shape: tuple[int, ...],
    observation: ObservationSpec,
    divisor: float | None,
    file: str,
    part: ObservationPart | None = None,
) -> Feed:
    rest, transpose = value.rest, False
    if _fits(rest, shape):
        made = shape
    elif len(shape) == 3 and _fits(rest, (shape[2], *shape[:2])):
        made, transpose = (shape[2], *shape[:2]), True
    elif None not in rest and math.prod(s or 1 for s in rest) == math.prod(shape):
        if len([s for s in rest if s != 1]) > 1 and len([s for s in shape if s != 1]) > 1:
            raise refuse(file, f"observations for {value}", describe_layout(observation))
        made = tuple(size or 1 for size in rest)
    else:
        raise refuse(file, f"observations for {value}", describe_layout(observation))
    pixels = (part is None and observation.dtype == "uint8") or (
        part is not None and part.integer and part.high == 255
    )
    if pixels and (observation.high if part is None else part.high) == 1:
        pixels = False
    if value.element not in FLOATS or not pixels:
        return Feed(value, columns, made, transpose, 1.0)
    if divisor is None:
        expected = "1 if the model takes pixels from 0 to 255, 255 if it takes them from 0 to 1"
        raise refuse("--divisor", expected, f"nothing, for uint8 pixels and the input {value}")
    return Feed(value, columns, made, transpose, divisor)


def _fits(sizes: Sequence[int | None], shape: Sequence[int]) -> bool:
    return len(sizes) == len(shape) and all(
        size in (None, given) for size, given in zip(sizes, shape, strict=True)
    )


def nodes_of(
    feed: Feed, number: int, source: str, observation: ObservationSpec
) -> tuple[list[object], dict[str, npt.NDArray[np.generic]]]:
    """Operators that make an input from the observation, and their constants.

    Args:
        feed: the plan.
        number: of the input, for names.
        source: the observation's name in the graph.
        observation: its layout.
    """
    nodes: list[object] = []
    constants: dict[str, npt.NDArray[np.generic]] = {}
    current, whole = source, feed.columns is None

    def add(operator: str, inputs: list[str], **attributes: int | list[int]) -> str:
        name = f"slimq.input{number}.{operator.lower()}"
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))  # type: ignore[arg-type]
        return name

    def constant(name: str, values: npt.NDArray[np.generic]) -> str:
        constants[f"slimq.input{number}.{name}"] = values
        return f"slimq.input{number}.{name}"

    if feed.columns is not None:
        bounds = {"starts": feed.columns.start, "ends": feed.columns.stop, "axes": 1}
        inputs = [constant(k, np.array([v], np.int64)) for k, v in bounds.items()]
        current = add("Slice", [current, *inputs])
    shape = (*feed.shape[1:], feed.shape[0]) if feed.transpose else feed.shape
    if not (whole and shape == observation.shape):
        target = constant("shape", np.array([-1, *shape], np.int64))
        current = add("Reshape", [current, target])
    if feed.transpose:
        current = add("Transpose", [current], perm=[0, 3, 1, 2])
    have = helper.np_dtype_to_tensor_dtype(np.dtype(observation.dtype))
    if feed.divisor != 1.0:
        current = add("Cast", [current], to=TensorProto.FLOAT)
        scale = constant("divisor", np.array(feed.divisor, np.float32))
        current, have = add("Div", [current, scale]), TensorProto.FLOAT
    if have != feed.value.element:
        name = f"slimq.input{number}.typed"
        nodes.append(helper.make_node("Cast", [current], [name], name, to=feed.value.element))
    return nodes, constants
