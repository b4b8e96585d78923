"""Reads MessagePack as flax writes it (`flax.serialization.to_bytes`), without flax.

The format is https://github.com/msgpack/msgpack/blob/master/spec.md; arrays are extension 1, NumPy
scalars extension 3, each a packed `(shape, dtype name, bytes)`. It holds data only.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_DEPTH = 32
MAX_VALUES = 10**6
ARRAY, SCALAR = 1, 3
TYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64")
NUMBERS = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
LENGTHS = (">B", ">H", ">I")


class MessagePackError(ValueError):
    """The bytes are not MessagePack as flax writes it."""


def read_msgpack(content: bytes) -> Any:
    """Reads one value; arrays become NumPy arrays.

    Raises:
        MessagePackError: the bytes are something else, or there are bytes left.
    """
    reader = _Reader(content)
    try:
        value = reader.value(0)
    except (struct.error, UnicodeDecodeError, TypeError) as error:
        raise MessagePackError(f"is not MessagePack: {error}") from error
    if reader.position != len(content):
        raise MessagePackError(f"is not MessagePack: {len(content) - reader.position} bytes left")
    return value


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content, self.position, self.values = content, 0, 0

    def take(self, length: int) -> bytes:
        chunk = self.content[self.position : self.position + length]
        if len(chunk) < length:
            raise MessagePackError("ends early")
        self.position += length
        return chunk

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def value(self, depth: int) -> Any:
        """The next value.

        Raises:
            MessagePackError: the data ends, or is nested too deeply.
        """
        self.values += 1
        if depth > MAX_DEPTH or self.values > MAX_VALUES:
            raise MessagePackError(f"has more than {MAX_DEPTH} levels or {MAX_VALUES} values")
        code = self.number(">B")
        if code <= 0x7F or code >= 0xE0:
            return code if code <= 0x7F else code - 0x100
        if code <= 0x8F:
            return self.map(code & 0x0F, depth)
        if code <= 0x9F:
            return self.array(code & 0x0F, depth)
        if code <= 0xBF:
            return self.take(code & 0x1F).decode()
        if code in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[code]
        if code in NUMBERS:
            return self.number(NUMBERS[code])
        return self.sized(code, depth)

    def sized(self, code: int, depth: int) -> Any:
        """A value that is preceded by its length."""
        if 0xC4 <= code <= 0xC6:
            return self.take(self.number(LENGTHS[code - 0xC4]))
        if 0xC7 <= code <= 0xC9:
            return self.extension(self.number(LENGTHS[code - 0xC7]), depth)
        if 0xD4 <= code <= 0xD8:
            return self.extension(1 << (code - 0xD4), depth)
        if 0xD9 <= code <= 0xDB:
            return self.take(self.number(LENGTHS[code - 0xD9])).decode()
        if code in (0xDC, 0xDD):
            return self.array(self.number(LENGTHS[code - 0xDB]), depth)
        if code in (0xDE, 0xDF):
            return self.map(self.number(LENGTHS[code - 0xDD]), depth)
        raise MessagePackError(f"is not MessagePack: byte {code:#x}")

    def array(self, count: int, depth: int) -> list[Any]:
        return [self.value(depth + 1) for _ in range(count)]

    def map(self, count: int, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            found[key] = self.value(depth + 1)
        return found

    def extension(self, length: int, depth: int) -> Any:
        kind = self.number(">b")
        packed = self.take(length)
        if kind not in (ARRAY, SCALAR):
            raise MessagePackError(f"has an extension of kind {kind}, expected arrays")
        inner = _Reader(packed)
        inner.values = self.values
        shape, name, data = inner.value(depth + 1)
        return _to_array(shape, name, data)


def _to_array(shape: Any, name: Any, data: Any) -> npt.NDArray[Any]:
    if name == "bfloat16" and isinstance(data, bytes):
        wide = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        name, data = "float32", wide.tobytes()
    if name not in TYPES:
        raise MessagePackError(f"has an array of type {str(name)[:32]!r}")
    dtype = np.dtype(name).newbyteorder("<")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise MessagePackError(f"an array of shape {tuple(shape)} has {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(tuple(shape)).astype(name)
