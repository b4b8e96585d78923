"""Finds external tensor data in an ONNX model, without onnx.

A tensor that lives outside the model is read by ONNX Runtime from a path that the model chooses, or
even from a memory address, so such models are refused before a session sees them. This walks the
protobuf wire format (https://protobuf.dev/programming-guides/encoding/) along the few fields of
onnx.proto that can lead to a tensor, and skips everything else without copying it.
"""

from __future__ import annotations

from collections.abc import Iterator

from slimq.core.errors import RepositoryError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
DEEPEST = 100
"""Nested messages; protobuf's own parsers stop at 100."""

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
"""By message of onnx.proto: the fields that hold another message on the way to a tensor."""
EXTERNAL_DATA, DATA_LOCATION = 13, 14
"""Fields of a tensor: where its data is, and whether that is outside the model."""


def refuse_external_data(model: bytes, name: str) -> None:
    """Checks that a model brings all its tensors itself.

    Raises:
        RepositoryError: it does not, or it is no protobuf message.
    """
    try:
        external = has_external_data(model)
    except ValueError as error:
        raise RepositoryError(name, f"is not an ONNX model: {error}") from error
    if external:
        raise RepositoryError(name, "has external tensor data; a model must hold all its tensors")


def has_external_data(model: bytes) -> bool:
    """Whether any tensor of a serialised ONNX model has its data elsewhere.

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    pending: list[tuple[str, memoryview, int]] = [("model", memoryview(model), 0)]
    while pending:
        kind, message, depth = pending.pop()
        if depth > DEEPEST:
            raise ValueError(f"messages are nested deeper than {DEEPEST}")
        children = CHILDREN[kind]
        for field, value in _fields(message):
            if kind == "tensor":
                if field == EXTERNAL_DATA or (field == DATA_LOCATION and value != 0):
                    return True
            elif field in children and isinstance(value, memoryview):
                pending.append((children[field], value, depth + 1))
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        field, wire = tag >> 3, tag & 7
        if field == 0 or tag >> 32:
            raise ValueError(f"invalid tag at byte {position}")
        if wire == VARINT:
            value, position = _varint(message, position)
            yield field, value
            continue
        if wire == LENGTH:
            length, position = _varint(message, position)
        elif wire in (FIXED64, FIXED32):
            length = 8 if wire == FIXED64 else 4
        else:
            raise ValueError(f"invalid wire type {wire} at byte {position}")
        if length > len(message) - position:
            raise ValueError("ends in the middle of a field")
        yield field, message[position : position + length]
        position += length


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
