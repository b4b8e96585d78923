"""Buffers, and views of them: what layers read and write. The batch axis, always 1, is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Element = Literal["float", "uint8_t", "int8_t", "int32_t"]
"""Types of elements, by their names in C."""
Place = Literal["observation", "scratch", "q_values", "constant"]

ELEMENTS: dict[str, Element] = {
    "float32": "float",
    "uint8": "uint8_t",
    "int8": "int8_t",
    "int32": "int32_t",
}
"""By the name of the numpy type."""
BYTES: dict[Element, int] = {"float": 4, "uint8_t": 1, "int8_t": 1, "int32_t": 4}


@dataclass(frozen=True, eq=False)
class Buffer:
    """Consecutive elements in memory; compared by identity.

    Attributes:
        place: the observation, an intermediate result, the Q-values, or a constant in flash.
        values: of a constant, flat.
    """

    element: Element
    size: int
    place: Place = "scratch"
    values: Array | None = None

    @property
    def bytes(self) -> int:
        """Its size in memory."""
        return self.size * BYTES[self.element]


@dataclass(frozen=True, eq=False)
class View:
    """Elements of a buffer as a tensor: real value = (stored - zero) × scale.

    Attributes:
        shape: without the batch axis.
        strides: in elements, per axis.
        offset: of the first element.
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
        """Whether elements are 8-bit integers, whose products with codes sum up exactly."""
        return self.buffer.element in ("uint8_t", "int8_t")

    @property
    def is_plain(self) -> bool:
        """Whether stored values are the real ones."""
        return self.scale == 1.0 and self.zero == 0

    @property
    def is_contiguous(self) -> bool:
        """Whether elements follow each other in C order."""
        wanted = row_major(self.shape)
        pairs = zip(self.shape, self.strides, wanted, strict=True)
        return all(size == 1 or stride == right for size, stride, right in pairs)

    def reshaped(self, shape: Sequence[int]) -> View:
        """The same elements in another shape; the view must be contiguous."""
        return replace(self, shape=tuple(shape), strides=row_major(shape))

    def sliced(self, axis: int, start: int, stop: int, step: int = 1) -> View:
        """A range along one axis."""
        count = max(0, -(-(stop - start) // step))
        shape = (*self.shape[:axis], count, *self.shape[axis + 1 :])
        strides = list(self.strides)
        offset = self.offset + start * strides[axis]
        strides[axis] *= step
        return replace(self, shape=shape, strides=tuple(strides), offset=offset)

    def transposed(self, order: Sequence[int]) -> View:
        """The axes in another order."""
        shape, strides = (tuple(values[a] for a in order) for values in (self.shape, self.strides))
        return replace(self, shape=shape, strides=strides)

    def broadcast(self, shape: Sequence[int]) -> View:
        """Repeated along new axes and those of size 1, as numpy does."""
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
    """A constant of float32."""
    plain = np.ascontiguousarray(values, np.float32)
    return whole(Buffer("float", plain.size, "constant", plain.reshape(-1)), plain.shape)
