"""Buffers and views of them, which layers read and write; the batch axis of 1 is omitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Element = Literal["float", "uint8_t", "int8_t", "int32_t"]
"""Element types, by their names in C."""
Place = Literal["observation", "scratch", "q_values", "constant"]

ELEMENTS: dict[str, Element] = {
    "float32": "float",
    "uint8": "uint8_t",
    "int8": "int8_t",
    "int32": "int32_t",
}
"""Element types by numpy type name."""
BYTES: dict[Element, int] = {"float": 4, "uint8_t": 1, "int8_t": 1, "int32_t": 4}


@dataclass(frozen=True, eq=False)
class Buffer:
    """Consecutive elements in memory; compared by identity.

    Attributes:
        element: C type of the elements.
        size: number of elements.
        place: the observation, an intermediate result, the Q-values, or a constant in flash.
        values: the values of a constant, `(size,)`; None for others.
    """

    element: Element
    size: int
    place: Place = "scratch"
    values: Array | None = None

    @property
    def bytes(self) -> int:
        """Its size in bytes."""
        return self.size * BYTES[self.element]


@dataclass(frozen=True, eq=False)
class View:
    """A buffer's elements as a tensor: real value = (stored − zero) × scale.

    Attributes:
        shape: shape without the batch axis.
        strides: strides per axis, in elements.
        offset: offset of the first element, in elements.
        scale: quantization scale.
        zero: zero point.
    """

    buffer: Buffer
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    scale: float = 1.0
    zero: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether elements are stored as floats."""
        return self.buffer.element == "float"

    @property
    def is_byte(self) -> bool:
        """Whether elements are 8-bit integers, whose products with codes can be summed exactly."""
        return self.buffer.element in ("uint8_t", "int8_t")

    @property
    def is_plain(self) -> bool:
        """Whether stored values are real values, without scale and zero point."""
        return self.scale == 1.0 and self.zero == 0

    @property
    def is_contiguous(self) -> bool:
        """Whether elements are contiguous in C order."""
        wanted = row_major(self.shape)
        pairs = zip(self.shape, self.strides, wanted, strict=True)
        return all(size == 1 or stride == right for size, stride, right in pairs)

    def reshaped(self, shape: Sequence[int]) -> View:
        """The same elements in another shape; the view must be contiguous."""
        return replace(self, shape=tuple(shape), strides=row_major(shape))

    def sliced(self, axis: int, start: int, stop: int, step: int = 1) -> View:
        """The range `start:stop:step` along one axis."""
        count = max(0, -(-(stop - start) // step))
        shape = (*self.shape[:axis], count, *self.shape[axis + 1 :])
        strides = list(self.strides)
        offset = self.offset + start * strides[axis]
        strides[axis] *= step
        return replace(self, shape=shape, strides=tuple(strides), offset=offset)

    def transposed(self, order: Sequence[int]) -> View:
        """The same elements with the axes in another order."""
        shape, strides = (tuple(values[a] for a in order) for values in (self.shape, self.strides))
        return replace(self, shape=shape, strides=strides)

    def broadcast(self, shape: Sequence[int]) -> View:
        """The tensor repeated along new axes and axes of size 1, as in numpy."""
        missing = len(shape) - len(self.shape)
        own = ((1,) * missing + self.shape, (0,) * missing + self.strides)
        strides = (0 if size == 1 else stride for size, stride in zip(*own, strict=True))
        return replace(self, shape=tuple(shape), strides=tuple(strides))


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous tensor, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def whole(buffer: Buffer, shape: Sequence[int]) -> View:
    """All elements of a buffer, in C order."""
    return View(buffer, tuple(shape), row_major(shape))


def constant(values: Array) -> View:
    """A constant float32 tensor."""
    plain = np.ascontiguousarray(values, np.float32)
    return whole(Buffer("float", plain.size, "constant", plain.reshape(-1)), plain.shape)
