"""Properties of an ONNX model (`metadata_props`), read and written without the onnx package.

Fields of a protobuf message may come in any order, and repeated ones are joined
(https://protobuf.dev/programming-guides/encoding/#last-one-wins). So properties are appended to a
model, whose own bytes stay unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping

from slimq.core._protobuf import LENGTH, fields

METADATA_PROPS = 14
"""Field number in ModelProto of repeated messages with `KEY` and `VALUE`."""
KEY, VALUE = 1, 2


def split_properties(model: bytes, prefix: str) -> tuple[bytes, dict[str, str]]:
    """Separates a model from its properties whose keys begin with a prefix.

    Returns:
        The model without them, its other bytes unchanged, and the properties by key, including the
        prefix.

    Raises:
        ValueError: the bytes are not a protobuf message, or a property is not UTF-8.
    """
    kept, found, start = [], {}, 0
    view = memoryview(model)
    for field, value, end in fields(view):
        if field == METADATA_PROPS and isinstance(value, memoryview):
            key, text = _parse(value)
            if key.startswith(prefix):
                found[key] = text
                start = end
                continue
        kept.append(view[start:end])
        start = end
    return b"".join(kept), found


def add_properties(model: bytes, properties: Mapping[str, str]) -> bytes:
    """Adds properties to a model, which must not have these keys yet."""
    entries = [
        _field(METADATA_PROPS, _field(KEY, key.encode()) + _field(VALUE, value.encode()))
        for key, value in properties.items()
    ]
    return b"".join([model, *entries])


def _parse(entry: memoryview) -> tuple[str, str]:
    texts = {KEY: "", VALUE: ""}
    for field, value, _ in fields(entry):
        if field in texts and isinstance(value, memoryview):
            texts[field] = bytes(value).decode()
    return texts[KEY], texts[VALUE]


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | LENGTH) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
