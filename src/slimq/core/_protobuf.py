"""Rejects ONNX models that would be dangerous to load, without the onnx package.

- ONNX Runtime reads a tensor's external data from a path that the model chooses, or even from a
  memory address.
- A tensor may declare any size, however little data it holds.
- A loop need not terminate, and ONNX Runtime runs a loop over constants while it loads the model.
  Functions that each call the next one twice grow exponentially with their depth when ONNX Runtime
  inlines them. A policy needs neither loops nor functions.

Such models are rejected before a session is created. The check walks the protobuf wire format
(https://protobuf.dev/programming-guides/encoding/) along the few fields of onnx.proto that can lead
to a tensor, and skips everything else without copying it.
"""

from __future__ import annotations

from collections.abc import Iterator

from slimq.core.errors import RepositoryError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
MAX_DEPTH = 100
"""Maximum nesting of messages; protobuf's own parsers stop at 100."""

CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        10: "tensor",
        6: "graph",
        11: "graph",
        22: "sparse",
        23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""For each message type of onnx.proto, the fields that can lead to a tensor."""
DIMS, NAME, EXTERNAL_DATA, DATA_LOCATION = 1, 8, 13, 14
"""Fields of a tensor: shape, name, location of external data, whether the data is external."""
DATA = frozenset((4, 5, 6, 7, 9, 10, 11))
"""Fields of a tensor that hold its data, one per group of types."""
SPARSE_DIMS = 3
MAX_ELEMENTS_PER_BYTE = 4
"""Maximum elements per byte of data; the smallest element type has two bits."""
MAX_DENSE_ELEMENTS = 2**28
"""Maximum elements of a sparse tensor, which ONNX Runtime expands to a dense one."""
MAX_NAME_LENGTH = 64
"""Maximum bytes of a tensor's name that a message quotes."""
MAX_FIELDS = 2 * 10**6
"""Maximum fields of a model, skipped ones included; each tensor and operator takes a few."""
MAX_PRODUCT = 2**64
"""Value at which the product of dims saturates."""

EXTERNAL = "has external tensor data; a model must contain all its tensors"
FUNCTION = "defines functions; a policy must have all its operators in its main graph"
SUBGRAPH = "has a subgraph, such as a loop; a policy must be a single feed-forward graph"


def check_model(model: bytes, name: str) -> None:
    """Checks that a model contains all its tensors and is a single feed-forward graph.

    Raises:
        RepositoryError: it does not, or it is not a protobuf message.
    """
    try:
        problem = find_problem(model)
    except ValueError as error:
        raise RepositoryError(name, f"is not an ONNX model: {error}") from error
    if problem is not None:
        raise RepositoryError(name, problem)


def find_problem(model: bytes) -> str | None:
    """Describes the first problem of a serialized ONNX model; None if it is safe to load.

    Raises:
        ValueError: the bytes are not a protobuf message.
    """
    found: str | None = None
    for parent, kind, message in _walk(model):
        if kind == "tensor":
            found = found or _oversized(message)
            if _is_external(message):
                return EXTERNAL
        elif kind == "sparse":
            found = found or _too_dense(message)
        elif kind == "function":
            found = found or FUNCTION
        elif kind == "graph" and parent == "attribute":
            found = found or SUBGRAPH
    return found


def has_external_data(model: bytes) -> bool:
    """Whether any tensor of a serialized ONNX model has external data.

    Raises:
        ValueError: the bytes are not a protobuf message.
    """
    return any(kind == "tensor" and _is_external(message) for _, kind, message in _walk(model))


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview, int]]:
    """Yields number, value and end position of each field of a message.

    Raises:
        ValueError: the bytes are not a protobuf message.
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        field, wire = tag >> 3, tag & 7
        if field == 0 or tag >> 32:
            raise ValueError(f"invalid tag at byte {position}")
        if wire == VARINT:
            value, position = _varint(message, position)
            yield field, value, position
            continue
        if wire == LENGTH:
            length, position = _varint(message, position)
        elif wire in (FIXED64, FIXED32):
            length = 8 if wire == FIXED64 else 4
        else:
            raise ValueError(f"invalid wire type {wire} at byte {position}")
        if length > len(message) - position:
            raise ValueError("ends in the middle of a field")
        position += length
        yield field, message[position - length : position], position


def _walk(model: bytes) -> Iterator[tuple[str, str, memoryview]]:
    """Yields every message on the way to a tensor, with its parent's type and its own."""
    pending: list[tuple[str, str, memoryview, int]] = [("", "model", memoryview(model), 0)]
    count = 0
    while pending:
        parent, kind, message, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"messages are nested more than {MAX_DEPTH} deep")
        children = CHILDREN[kind]
        for field, value, _ in fields(message):
            count += 1
            if count > MAX_FIELDS:
                raise ValueError(f"more than {MAX_FIELDS} fields")
            if field in children and isinstance(value, memoryview):
                pending.append((kind, children[field], value, depth + 1))
        yield parent, kind, message


def _is_external(tensor: memoryview) -> bool:
    return any(
        field == EXTERNAL_DATA or (field == DATA_LOCATION and value != 0)
        for field, value, _ in fields(tensor)
    )


def _oversized(tensor: memoryview) -> str | None:
    held, name = 0, ""
    for field, value, _ in fields(tensor):
        if field in DATA:
            held += len(value) if isinstance(value, memoryview) else 1
        elif field == NAME and isinstance(value, memoryview):
            name = bytes(value[:MAX_NAME_LENGTH]).decode(errors="replace")
    elements = _elements(tensor, DIMS)
    if elements <= held * MAX_ELEMENTS_PER_BYTE:
        return None
    return f"tensor {name!r} declares {elements} elements but holds {held} bytes"


def _too_dense(sparse: memoryview) -> str | None:
    elements = _elements(sparse, SPARSE_DIMS)
    if elements <= MAX_DENSE_ELEMENTS:
        return None
    return f"a sparse tensor declares {elements} elements, expected at most {MAX_DENSE_ELEMENTS}"


def _elements(message: memoryview, field: int) -> int:
    """The product of the dims in a field, read as unsigned; saturates at `MAX_PRODUCT`."""
    result = 1
    for number, value, _ in fields(message):
        if number == field:
            position = 0
            while isinstance(value, memoryview) and position < len(value):
                dim, position = _varint(value, position)
                result = min(result * dim, MAX_PRODUCT)
            if isinstance(value, int):
                result = min(result * value, MAX_PRODUCT)
    return result


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    result = 0
    for index in range(10):
        if position + index >= len(message):
            raise ValueError("ends in the middle of a number")
        byte = message[position + index]
        result |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return result, position + index + 1
    raise ValueError(f"a number is longer than 10 bytes at byte {position}")
