"""Layout and validation of observations, in one place.

A model takes the environment wrapper's own observation: uint8 frames stay uint8; the cast and the
scaling are part of the graph. The trainer, the evaluator and the service all use this module, and
golden vectors in the tests pin them to the same bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from slimq.core.errors import ObservationError

Observations = npt.NDArray[np.uint8] | npt.NDArray[np.int32] | npt.NDArray[np.float32]
Dtype = Literal["uint8", "int32", "float32"]
INTEGER_RANGES = {"uint8": (0, 255), "int32": (-(2**31), 2**31 - 1)}
MAX_CATEGORIES = 65_536
"""Maximum number of values of a category; each is an input of the network's first layer."""
MAX_CODES = 1_000_000
"""Maximum number of one-hot codes of an observation; each takes memory in every batch."""
FLOAT_INTEGERS = 2**24
"""Largest integer up to which float32, in which codes are compared, is exact."""


class FrameStack(BaseModel):
    """The stacking of single frames into an observation; the newest is last along `axis`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    axis: int = Field(default=0, ge=0, description="axis of one observation along which to stack")
    count: int = Field(ge=1, le=64, description="frames in one observation")
    padding: Literal["zero"] = Field(
        default="zero", description="content of the stack before an episode's first frame"
    )

    def slot(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one frame's slice of an observation of this shape, with all its axes."""
        return (*shape[: self.axis], shape[self.axis] // self.count, *shape[self.axis + 1 :])


class ObservationPart(BaseModel):
    """A named part of a flat observation: a leaf of a Dict or Tuple space, or integer codes.

    Integers are sent as they are; the graph one-hot encodes those that are categories.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        min_length=1, max_length=256, description="key or index, joined with dots where nested"
    )
    shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        max_length=8, description="without the batch axis; empty for a single number"
    )
    categories: tuple[Annotated[int, Field(ge=1, le=MAX_CATEGORIES)], ...] | None = Field(
        default=None,
        description="number of values of each element, in C order, where they are categories",
    )
    start: tuple[int, ...] | None = Field(
        default=None, description="smallest value of each element; null for zeros"
    )
    integer: bool = Field(
        default=False, description="whether values are integers, from `low` to `high`"
    )
    low: float | None = Field(default=None, description="smallest value, null if unbounded")
    high: float | None = Field(default=None, description="largest value, null if unbounded")

    @model_validator(mode="after")
    def _check(self) -> ObservationPart:
        for name in ("categories", "start"):
            values = getattr(self, name)
            if values is not None and len(values) != self.size:
                raise ValueError(f"{name}: expected {self.size} values, received {len(values)}")
        for first, count in zip(self.first, self.categories or (), strict=False):
            if not -FLOAT_INTEGERS <= first <= first + count - 1 <= FLOAT_INTEGERS:
                limits = f"from {-FLOAT_INTEGERS} to {FLOAT_INTEGERS}"
                received = f"{self.name!r} from {first} to {first + count - 1}"
                raise ValueError(f"expected categories {limits}, received {received}")
        return self

    @cached_property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def first(self) -> tuple[int, ...]:
        """The smallest value of each category's element."""
        return self.start or (0,) * self.size

    @property
    def encoded_size(self) -> int:
        """Number of elements after the one-hot encoding of categories."""
        return self.size if self.categories is None else sum(self.categories)


@dataclass(frozen=True, eq=False)
class IntegerRanges:
    """The integer elements of a flat observation, with their smallest and largest values.

    Compared by identity, since pydantic compares a model's cached properties, and comparisons of
    arrays have no truth value.
    """

    indices: npt.NDArray[np.intp]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


def slices_of(parts: Sequence[ObservationPart]) -> list[slice]:
    """The slice of each part in a flat observation, in order."""
    ends = itertools.accumulate(part.size for part in parts)
    return [slice(end - part.size, end) for part, end in zip(parts, ends, strict=True)]


class ObservationSpec(BaseModel):
    """The layout of one observation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Dtype
    shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        min_length=1, max_length=8, description="without the batch axis"
    )
    low: float | None = Field(default=None, description="smallest value, null if unbounded")
    high: float | None = Field(default=None, description="largest value, null if unbounded")
    stack: FrameStack | None = Field(default=None, description="set if frames are stacked")
    parts: tuple[ObservationPart, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="parts of a flat observation, in order; null for an array of one kind",
    )

    @model_validator(mode="after")
    def _check_stack(self) -> ObservationSpec:
        if self.stack is None:
            return self
        axis, count = self.stack.axis, self.stack.count
        if axis >= len(self.shape) or self.shape[axis] % count:
            raise ValueError(f"shape {self.shape} has no {count} frames along axis {axis}")
        return self

    @model_validator(mode="after")
    def _check_parts(self) -> ObservationSpec:
        if self.parts is None:
            return self
        if self.stack is not None:
            raise ValueError("parts: expected null for stacked frames")
        if self.shape != (size := sum(part.size for part in self.parts),):
            raise ValueError(f"parts: together they have {size} elements, shape is {self.shape}")
        if len({part.name for part in self.parts}) < len(self.parts):
            raise ValueError("parts: names must be different")
        coded = [part for part in self.parts if part.categories is not None]
        if sum(part.encoded_size for part in coded) > MAX_CODES:
            most = max(coded, key=lambda part: part.encoded_size)
            received = f"{most.encoded_size:,} in {most.name!r}"
            raise ValueError(f"expected at most {MAX_CODES:,} one-hot codes, received {received}")
        return self

    @cached_property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype in little-endian byte order, as sent over the wire."""
        return np.dtype(self.dtype).newbyteorder("<")

    @cached_property
    def size(self) -> int:
        """Number of elements in one observation."""
        return math.prod(self.shape)

    @cached_property
    def item_bytes(self) -> int:
        """Bytes of one observation."""
        return self.size * self.numpy_dtype.itemsize

    @property
    def frame(self) -> ObservationSpec:
        """The layout of the new data at each step: a frame, or the observation if none are stacked.

        A frame lacks the stacking axis, unless it has several entries along it.
        """
        if self.stack is None:
            return self
        shape = self.stack.slot(self.shape)
        if shape[self.stack.axis] == 1 and len(shape) > 1:
            shape = shape[: self.stack.axis] + shape[self.stack.axis + 1 :]
        return ObservationSpec(dtype=self.dtype, shape=shape, low=self.low, high=self.high)

    def padding(self) -> Observations:
        """The observation before an episode's first frame, `(1, *shape)`."""
        return np.zeros((1, *self.shape), self.dtype)

    def zeros(self, batch: int = 1) -> Observations:
        """Valid observations `(batch, *shape)`: zeros, or the nearest values that are allowed."""
        values: Any = np.zeros((batch, *self.shape), self.dtype)
        if (ranges := self.integer_ranges) is not None:
            values[:, ranges.indices] = np.clip(0, ranges.low, ranges.high)
        return values  # type: ignore[no-any-return]

    def push(self, before: Observations, frame: Observations) -> Observations:
        """Adds a frame to an observation; returns a new array if frames are stacked.

        Args:
            before: `(1, *shape)`, the previous observation, or the padding.
            frame: `(1, *frame.shape)`, checked.

        Returns:
            `(1, *shape)`, without the oldest frame and with the new one last along the axis.
        """
        if self.stack is None:
            return frame
        axis, shape = self.stack.axis + 1, self.stack.slot(self.shape)
        kept = before[(slice(None),) * axis + (slice(shape[axis - 1], None),)]
        pushed: Any = np.concatenate((kept, frame.reshape(1, *shape)), axis=axis)
        return np.ascontiguousarray(pushed)

    def part_slices(self) -> dict[str, slice]:
        """The slice of each named part in a flat observation; empty if there are no parts."""
        parts = self.parts or ()
        return {part.name: place for part, place in zip(parts, slices_of(parts), strict=True)}

    def join(
        self, values: Mapping[str, npt.ArrayLike], field: str = "observations"
    ) -> Observations:
        """Joins named parts to flat observations, `(batch, size)`, and checks them.

        Args:
            values: `(batch, *part.shape)` for each part, or a single one, `part.shape`.
            field: name of the whole in errors.

        Raises:
            ObservationError: a part is missing, unknown or does not fit, or `check` fails.
        """
        if self.parts is None:
            expected = f"an array {self.dtype} {self.shape}; the observation has no named parts"
            raise ObservationError(field, expected, f"parts {', '.join(map(str, values))}")
        names = [part.name for part in self.parts]
        if wrong := sorted(set(names) ^ set(values)):
            problem = f"{'no part' if wrong[0] in names else 'an unknown part'} {wrong[0]!r}"
            raise ObservationError(field, f"the parts {', '.join(names)}", problem)
        rows = [_rows(part, values[part.name], f"{field}.{part.name}") for part in self.parts]
        if len({len(part) for part in rows}) > 1:
            counts = ", ".join(f"{n} {len(part)}" for n, part in zip(names, rows, strict=True))
            raise ObservationError(field, "as many observations in every part", counts)
        return self.check(np.concatenate(rows, axis=1), field)

    def check(self, array: npt.NDArray[Any], field: str = "observations") -> Observations:
        """Validates a batch and returns it C-contiguous; copies only if necessary.

        Args:
            array: `(batch, *shape)`, or a single observation `shape`; of this dtype, or of another
                whose values this dtype represents exactly.
            field: name of the array in errors.

        Raises:
            ObservationError: wrong shape, dtype or range, an empty batch, or a non-finite value.
        """
        if array.shape == self.shape:
            array = array[np.newaxis]
        if array.shape[1:] != self.shape:
            expected = f"shape (batch, {', '.join(map(str, self.shape))})"
            raise ObservationError(field, expected, f"shape {array.shape}")
        if array.shape[0] == 0:
            raise ObservationError(field, "a batch of at least 1", "an empty batch")
        if self.integer_ranges is not None:
            self._check_ranges(array, self.integer_ranges, field)
        return np.ascontiguousarray(self._cast(array, field))

    @cached_property
    def integer_ranges(self) -> IntegerRanges | None:
        """The integer elements and their ranges; None if there are none."""
        found: list[tuple[int, float, float]] = []
        position = 0
        for part in self.parts or ():
            for index in range(part.size):
                if part.categories is not None:
                    first = part.first[index]
                    found.append((position + index, first, first + part.categories[index] - 1))
                elif part.integer:
                    least = -math.inf if part.low is None else part.low
                    most = math.inf if part.high is None else part.high
                    found.append((position + index, least, most))
            position += part.size
        if not found:
            return None
        indices, lows, highs = zip(*found, strict=True)
        return IntegerRanges(
            np.array(indices, np.intp), np.array(lows, np.float64), np.array(highs, np.float64)
        )

    def _check_ranges(self, array: npt.NDArray[Any], ranges: IntegerRanges, field: str) -> None:
        """Refuses values that are not integers in the part's range, before they are rounded."""
        if array.dtype.kind not in "fiu":
            return
        chosen = array[:, ranges.indices]
        valid = (chosen >= ranges.low) & (chosen <= ranges.high)
        if chosen.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                valid &= chosen == np.floor(chosen)
        if valid.all():
            return
        row, column = np.unravel_index(int(np.argmin(valid)), valid.shape)
        element = int(ranges.indices[column])
        name, at = self._name_of(element)
        least, most = ranges.low[column], ranges.high[column]
        expected = f"an integer from {least:.15g} to {most:.15g} in {name!r}{at}"
        received = f"{chosen[row, column]:.15g}"
        raise ObservationError(f"{field}[{row}][{element}]", expected, received)

    def _name_of(self, element: int) -> tuple[str, str]:
        """The part of an element, and its index within it, such as `[2]`."""
        for part in self.parts or ():
            if element < part.size:
                index = np.unravel_index(element, part.shape) if part.shape else ()
                return part.name, "".join(f"[{i}]" for i in index)
            element -= part.size
        raise IndexError(element)

    def from_bytes(self, body: bytes | memoryview, field: str = "body") -> Observations:
        """Reads a batch from raw little-endian bytes, without a copy.

        Raises:
            ObservationError: the length is not a positive multiple of `item_bytes`, or `check`
                fails.
        """
        length = len(body)
        if length == 0 or length % self.item_bytes:
            expected = f"a positive multiple of {self.item_bytes} bytes ({self.dtype} {self.shape})"
            raise ObservationError(field, expected, f"{length} bytes")
        flat = np.frombuffer(body, dtype=self.numpy_dtype)
        return self.check(flat.reshape(-1, *self.shape), field)

    def _cast(self, array: npt.NDArray[Any], field: str) -> npt.NDArray[Any]:
        if self.dtype == "float32":
            if array.dtype.kind not in "fiu":
                raise ObservationError(field, "numbers", f"dtype {array.dtype}")
            values = array
            if array.dtype != np.float32:
                with np.errstate(over="ignore"):
                    values = array.astype(np.float32)
            finite = np.isfinite(values)
            if not finite.all():
                place, wrong = _first(array, ~finite)
                expected = "a finite float32"
                if self.parts is not None:
                    name, at = self._name_of(int(np.argmax(~finite)) % self.size)
                    expected += f" in {name!r}{at}"
                raise ObservationError(field + place, expected, str(wrong))
            return values
        if array.dtype == self.dtype:
            return array
        low, high = INTEGER_RANGES[self.dtype]
        expected = f"integers from {low} to {high}"
        if array.dtype.kind not in "fiu":
            raise ObservationError(field, expected, f"dtype {array.dtype}")
        with np.errstate(invalid="ignore"):
            exact = (array >= low) & (array <= high) & (array == np.floor(array))
        if not exact.all():
            place, wrong = _first(array, ~exact)
            raise ObservationError(field + place, expected, f"a value of {wrong}")
        integers: Observations = array.astype(self.dtype)
        return integers


def _rows(part: ObservationPart, values: npt.ArrayLike, field: str) -> npt.NDArray[Any]:
    """One part of a batch, `(batch, part.size)`."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise ObservationError(field, "a rectangular array", "lists of unequal lengths") from None
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if array.dtype.kind not in "fiu":
        raise ObservationError(field, "numbers", f"dtype {array.dtype}")
    if array.shape == part.shape:
        array = array[np.newaxis]
    if array.shape[1:] != part.shape or array.ndim == 0:
        shape = ", ".join(["batch", *map(str, part.shape)])
        raise ObservationError(field, f"shape ({shape})", f"shape {array.shape}")
    return array.reshape(len(array), part.size)


def _first(array: npt.NDArray[Any], chosen: npt.NDArray[np.bool_]) -> tuple[str, Any]:
    """The first value selected by a mask, and its index, such as `[0][3]`, batch axis first."""
    index = np.unravel_index(int(np.argmax(chosen)), array.shape)
    return "".join(f"[{i}]" for i in index), array[index]
