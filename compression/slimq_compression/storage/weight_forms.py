"""In which small forms a weight tensor can be stored without loss, found from the weights alone.

The grids that a network was trained on are gone after the export, so they are recognised here. A
form is plain values times a scale for each output channel: integers times a scale (linear), powers
of two from 1 downwards times the channel's largest (power of two), or the weights themselves, of
which there may be few different ones (codebook). Every form is checked by the multiplication that
the decoder does, in float32: what is returned is exact, but for the sign of zeros, which no layer's
result depends on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

HIGHEST = 127
"""Largest code of a linear form, that of symmetric 8 bits."""
MOST_VALUES = 256
"""Different values that codes of 8 bits can tell apart."""
BITS = (2, 4, 8)
"""Widths of a code that ONNX has a type for."""


class Form(StrEnum):
    """What codes stand for."""

    AUTO = "auto"
    LINEAR = "linear"
    POWER_OF_TWO = "power-of-two"
    CODEBOOK = "codebook"
    DENSE = "dense"


@dataclass(frozen=True)
class Scaled:
    """Weights as plain values times a scale, exactly.

    Attributes:
        form: what the plain values are.
        plain: of the weights' shape; integers stored as float32 where the form is linear.
        scale: float32, broadcasts against `plain`; None where there is none.
    """

    form: Form
    plain: Array
    scale: Array | None = None

    def bits(self, stored: Array) -> int | None:
        """The fewest bits of a code for these of the plain values; None where there are no codes.

        Args:
            stored: the plain values that are stored, at least one.
        """
        if self.form is Form.DENSE:
            return None
        if self.form is Form.LINEAR:
            return _code_bits(stored)
        distinct = len(np.unique(stored))
        return next((bits for bits in BITS if distinct <= 2**bits), None)


def forms_of(weight: Array, axis: int) -> dict[Form, Scaled]:
    """All forms that hold a weight tensor exactly; `dense` always does.

    Args:
        weight: float32, or integers, which need no scale.
        axis: of the output channels.
    """
    found = {Form.DENSE: Scaled(Form.DENSE, weight)}
    if not np.isfinite(weight).all():
        return found
    if weight.dtype == np.float32:
        if (scale := _linear(weight, axis)) is not None:
            found[Form.LINEAR] = Scaled(Form.LINEAR, np.rint(weight / scale), scale)
        if (scale := _power_of_two(weight, axis)) is not None:
            found[Form.POWER_OF_TWO] = Scaled(Form.POWER_OF_TWO, weight / scale, scale)
    if len(np.unique(weight)) <= MOST_VALUES:
        found[Form.CODEBOOK] = Scaled(Form.CODEBOOK, weight)
    return found


def _linear(weight: Array, axis: int) -> Array | None:
    """The scale of evenly spaced levels: of each channel, or of the tensor if that is no wider."""
    channels = _per_channel(weight, axis, _step)
    whole = _step(weight)
    if channels is None or whole is None:
        return channels
    tensor = np.full((1,), whole, np.float32)
    wide, narrow = (_code_bits(np.rint(weight / scale)) for scale in (tensor, channels))
    return tensor if wide <= narrow else channels


def _code_bits(codes: Array) -> int:
    """The fewest bits of signed codes of at most HIGHEST."""
    largest = int(np.abs(codes).max())
    return next(bits for bits in BITS if largest < 2 ** (bits - 1))


def _step(weights: Array) -> np.float32 | None:
    """The largest s such that every weight is s·q with an integer |q| ≤ HIGHEST."""
    magnitudes = np.unique(np.abs(weights))
    if not magnitudes[-1]:
        return np.float32(1.0)
    if len(magnitudes) > HIGHEST + 1:
        return None
    steps = (magnitudes[-1] / np.arange(1, HIGHEST + 1, dtype=np.float32))[:, None]
    steps = steps[steps[:, 0] > 0]
    exact = (np.rint(magnitudes / steps) * steps == magnitudes).all(axis=1)
    return np.float32(steps[int(np.argmax(exact)), 0]) if exact.any() else None


def _power_of_two(weight: Array, axis: int) -> Array | None:
    """The largest power of two of each channel, where all weights are powers of two or zero."""
    mantissas, _ = np.frexp(np.abs(weight))
    if not np.isin(mantissas, (0.0, 0.5)).all():
        return None
    scale = _per_channel(weight, axis, lambda row: np.abs(row).max() or np.float32(1.0))
    few = scale is not None and len(np.unique(weight / scale)) <= MOST_VALUES
    return scale if few else None


def _per_channel(
    weight: Array, axis: int, find: Callable[[Array], np.float32 | None]
) -> Array | None:
    """What is found in each channel, so shaped that it broadcasts; None where one has nothing."""
    scales = []
    for row in np.moveaxis(weight, axis, 0):
        scale = find(row)
        if scale is None:
            return None
        scales.append(scale)
    # Axes before the channels' need not be there for broadcasting.
    return np.array(scales, np.float32).reshape(-1, *[1] * (weight.ndim - axis - 1))
