"""Layout and validation of observations, in one place.

A model takes the environment wrapper's own observation: uint8 frames stay uint8; the cast and the
scaling are part of the graph. The trainer, the evaluator and the service all use this module, and
golden vectors in the tests pin them to the same bytes.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from slimq.core.errors import ObservationError

Observations = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


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


class ObservationSpec(BaseModel):
    """The layout of one observation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["uint8", "float32"]
    shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        min_length=1, max_length=8, description="without the batch axis"
    )
    low: float | None = Field(default=None, description="smallest value, null if unbounded")
    high: float | None = Field(default=None, description="largest value, null if unbounded")
    stack: FrameStack | None = Field(default=None, description="set if frames are stacked")

    @model_validator(mode="after")
    def _check_stack(self) -> ObservationSpec:
        if self.stack is None:
            return self
        axis, count = self.stack.axis, self.stack.count
        if axis >= len(self.shape) or self.shape[axis] % count:
            raise ValueError(f"shape {self.shape} has no {count} frames along axis {axis}")
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
        """The layout of the new data at each step: a frame, or all of it if frames are not stacked.

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

    def check(self, array: npt.NDArray[Any], field: str = "observations") -> Observations:
        """Validates a batch and returns it C-contiguous, copying only where needed.

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
        return np.ascontiguousarray(self._cast(array, field))

    def from_bytes(self, body: bytes | memoryview, field: str = "body") -> Observations:
        """Reads a batch from raw little-endian bytes, without a copy.

        Raises:
            ObservationError: the length is not a positive multiple of `item_bytes`, or as `check`.
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
            with np.errstate(over="ignore"):
                values = array.astype(np.float32, copy=False)
            finite = np.isfinite(values)
            if not finite.all():
                place, wrong = _first(array, ~finite)
                raise ObservationError(field + place, "a finite float32", str(wrong))
            return values
        if array.dtype == np.uint8:
            return array
        if array.dtype.kind not in "fiu":
            raise ObservationError(field, "integers from 0 to 255", f"dtype {array.dtype}")
        with np.errstate(invalid="ignore"):
            exact = (array >= 0) & (array <= 255) & (array == np.floor(array))
        if not exact.all():
            place, wrong = _first(array, ~exact)
            raise ObservationError(field + place, "integers from 0 to 255", f"a value of {wrong}")
        return array.astype(np.uint8)


def _first(array: npt.NDArray[Any], chosen: npt.NDArray[np.bool_]) -> tuple[str, Any]:
    """The first value selected by a mask, and its index, such as `[0][3]`, batch axis first."""
    index = np.unravel_index(int(np.argmax(chosen)), array.shape)
    return "".join(f"[{i}]" for i in index), array[index]
