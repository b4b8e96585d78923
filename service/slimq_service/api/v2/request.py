"""Parsing of inference requests: the JSON, the input tensor in JSON or binary, and the outputs.

Unknown keys and parameters are ignored, as clients send `priority`, `timeout` or `sequence_id`.
Parameters that change the meaning of a tensor (shared memory, classification) are refused, since
ignoring them would give a wrong response.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from slimq.core.errors import InvalidInputError, ObservationError
from slimq.core.observation import Observations, ObservationSpec
from slimq_service.api.v2.framing import LENGTH_NAME, Frame, split
from slimq_service.api.v2.tensors import DATATYPES, INPUT, OUTPUTS
from slimq_service.decoding.nested_lists import (
    check_count,
    check_lists,
    flatten,
    kind_of,
    load_json,
    read_vectors,
    to_array,
)
from slimq_service.errors import ConflictError, MalformedError
from slimq_service.http.content_encoding import decompress

KEYS = ("id", "parameters", "inputs", "name", "shape", "datatype", "data", "outputs")
REFUSED_PARAMETERS = ("shared_memory_region", "classification")
MAX_DIMS = 16
MAX_ID_LENGTH = 256
"""Characters of a request's id, which the response repeats."""


class Output(NamedTuple):
    """A requested output, and whether it is binary."""

    name: str
    binary: bool


class InferRequest(NamedTuple):
    """A parsed and validated request."""

    id: str | None
    observations: Observations
    outputs: tuple[Output, ...]


ReadTensor = Callable[[dict[str, Any], tuple[int, ...]], Observations]
"""Reads the observations of a checked input, given its entry in the request and its shape."""


@dataclass(frozen=True)
class Limits:
    """Maximum number of observations, and of bytes in the decompressed body."""

    batch: int
    body_bytes: int


def read_request(
    body: bytes, encoding: str | None, length: int | None, spec: ObservationSpec, limits: Limits
) -> InferRequest:
    """Parses a body.

    Args:
        body: the body as received.
        encoding: its content encoding, from `encoding_of`.
        length: length of its JSON, from `json_length`.
        spec: the layout of one observation.
        limits: limits of the request.

    Raises:
        MalformedError: the body is not JSON, or its lengths are inconsistent.
        InvalidInputError: a field is missing or invalid; the message names it.
        LimitError: the request exceeds a limit.
    """
    if encoding is not None:
        body = decompress(body, encoding, limits.body_bytes)
    frame = split(body, length)
    if frame.head is None:
        return InferRequest(None, _read_raw(frame.binary, spec, limits), _all_outputs(binary=True))
    check_lists(frame.head, spec, limits.batch, INPUT)
    document = load_json(frame.head, KEYS)
    if not isinstance(document, dict):
        raise InvalidInputError("body", "a JSON object with inputs", kind_of(document))

    def read_tensor(entry: dict[str, Any], shape: tuple[int, ...]) -> Observations:
        size = (entry.get("parameters") or {}).get("binary_data_size")
        if size is not None:
            return _read_binary(entry, size, frame, shape, spec)
        if len(frame.binary):
            received = f"{len(frame.binary)} bytes not claimed by an input"
            raise MalformedError("body", "nothing after the JSON", received)
        return _read_data(entry, shape, spec)

    return read_document(document, spec, limits, read_tensor)


def read_document(
    document: dict[str, Any], spec: ObservationSpec, limits: Limits, read_tensor: ReadTensor
) -> InferRequest:
    """Reads a parsed request.

    Args:
        document: the request, with the keys of the JSON.
        spec: the layout of one observation.
        limits: limits of the request.
        read_tensor: reads the observations, once name, datatype and shape are checked.

    Raises:
        InvalidInputError: a field is missing or invalid; the message names it.
        LimitError: the request exceeds a limit.
    """
    request_id = document.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise InvalidInputError("id", "a string", kind_of(request_id))
    if request_id is not None and len(request_id) > MAX_ID_LENGTH:
        received = f"{len(request_id)} characters"
        raise InvalidInputError("id", f"at most {MAX_ID_LENGTH} characters", received)
    outputs = _read_outputs(document)
    observations = _read_input(document, spec, limits, read_tensor)
    return InferRequest(request_id, observations, outputs)


def _read_raw(binary: memoryview, spec: ObservationSpec, limits: Limits) -> Observations:
    check_count(len(binary) // spec.item_bytes, limits.batch, INPUT)
    return aligned(spec.from_bytes(binary))


def _read_outputs(document: dict[str, Any]) -> tuple[Output, ...]:
    parameters = _parameters(document, "parameters")
    default = _flag(parameters, "binary_data_output", "parameters", default=False)
    requested = document.get("outputs")
    if requested is None or requested == []:
        return _all_outputs(binary=default)
    if not isinstance(requested, list):
        raise InvalidInputError("outputs", "a list of outputs", kind_of(requested))
    found: dict[str, Output] = {}
    for index, entry in enumerate(requested):
        field = f"outputs[{index}]"
        name = _name(entry, field, OUTPUTS)
        if name in found:
            raise ConflictError(f"{field}.name", "each output once", f"{name!r} twice")
        output_parameters = _parameters(entry, f"{field}.parameters")
        binary = _flag(output_parameters, "binary_data", f"{field}.parameters", default=default)
        found[name] = Output(name, binary)
    return tuple(found.values())


@cache
def _all_outputs(*, binary: bool) -> tuple[Output, ...]:
    return tuple(Output(name, binary) for name in OUTPUTS)


def _read_input(
    document: dict[str, Any], spec: ObservationSpec, limits: Limits, read_tensor: ReadTensor
) -> Observations:
    inputs = document.get("inputs")
    if not isinstance(inputs, list):
        received = kind_of(inputs) if "inputs" in document else "nothing"
        raise InvalidInputError("inputs", f"a list with the input {INPUT}", received)
    for index, entry in enumerate(inputs):
        _name(entry, f"inputs[{index}]", (INPUT,))
    if len(inputs) != 1:
        raise InvalidInputError("inputs", f"one input, {INPUT}", f"{len(inputs)} inputs")
    (entry,) = inputs
    expected = DATATYPES[spec.dtype]
    if entry.get("datatype") != expected:
        received = kind_of(entry.get("datatype"))
        raise InvalidInputError("inputs[0].datatype", expected, received)
    shape = _read_shape(entry.get("shape"), spec, limits)
    _parameters(entry, "inputs[0].parameters")
    return read_tensor(entry, shape)


def _read_shape(value: Any, spec: ObservationSpec, limits: Limits) -> tuple[int, ...]:
    field = "inputs[0].shape"
    if not isinstance(value, list) or len(value) > MAX_DIMS:
        raise InvalidInputError(field, _shape_text(spec), kind_of(value))
    for index, dim in enumerate(value):
        if type(dim) is not int or dim < 0:
            received = kind_of(dim)
            raise InvalidInputError(f"{field}[{index}]", "a non-negative integer", received)
    if tuple(value[1:]) != spec.shape:
        raise InvalidInputError(field, _shape_text(spec), str(value))
    if value[0] == 0:
        raise InvalidInputError(field, "a batch of at least 1", "an empty batch")
    check_count(value[0], limits.batch, field)
    return tuple(value)


def _shape_text(spec: ObservationSpec) -> str:
    return f"[batch, {', '.join(map(str, spec.shape))}]"


def _read_binary(
    entry: dict[str, Any],
    size: Any,
    frame: Frame,
    shape: tuple[int, ...],
    spec: ObservationSpec,
) -> Observations:
    field = "inputs[0].parameters.binary_data_size"
    if "data" in entry:
        raise ConflictError("inputs[0].data", "no data together with binary_data_size", "both")
    if not frame.length_given:
        raise MalformedError(LENGTH_NAME, "the length of the JSON before a binary input", "nothing")
    needed = shape[0] * spec.item_bytes
    if type(size) is not int or size != needed:
        expected = f"{needed} (shape {list(shape)}, {DATATYPES[spec.dtype]})"
        raise InvalidInputError(field, expected, kind_of(size))
    if len(frame.binary) != size:
        expected = f"{size} bytes after the JSON"
        raise MalformedError("body", expected, f"{len(frame.binary)} bytes")
    return aligned(spec.from_bytes(frame.binary, INPUT))


def aligned(array: Observations) -> Observations:
    """Copies an array that is misaligned because of the JSON before it."""
    return array if array.flags.aligned else array.copy()


def _read_data(
    entry: dict[str, Any], shape: tuple[int, ...], spec: ObservationSpec
) -> Observations:
    field, data = "inputs[0].data", entry.get("data")
    if not isinstance(data, list):
        received = kind_of(data) if "data" in entry else "nothing"
        raise InvalidInputError(field, "a list of numbers", received)
    count = math.prod(shape)
    nested = bool(data) and isinstance(data[0], list)
    if not nested and len(data) != count:
        flatten(data, (len(data),), field)  # raises if an element is not a number
        expected = f"a list of {count} numbers (shape {list(shape)})"
        raise ObservationError(field, expected, kind_of(data))
    if not nested and spec.dtype == "float32" and spec.integer_ranges is None:
        vector = read_vectors([data], count)
        if vector is not None:
            return vector.reshape(shape)
    numbers = flatten(data, shape if nested else (count,), field)
    return spec.check(to_array(numbers, spec).reshape(shape), field)


def _name(entry: Any, field: str, known: tuple[str, ...]) -> str:
    if not isinstance(entry, dict):
        raise InvalidInputError(field, "an object with a name", kind_of(entry))
    name = entry.get("name")
    if name not in known:
        raise InvalidInputError(f"{field}.name", " or ".join(map(repr, known)), kind_of(name))
    return str(name)


def _parameters(owner: dict[str, Any], field: str) -> dict[str, Any]:
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidInputError(field, "an object", kind_of(parameters))
    for name in REFUSED_PARAMETERS:
        if name in parameters:
            raise InvalidInputError(f"{field}.{name}", "no such parameter (not supported)", "one")
    return parameters


def _flag(parameters: dict[str, Any], name: str, field: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInputError(f"{field}.{name}", "true or false", kind_of(value))
    return value
