"""Finds lossless encodings of a weight tensor, from the weights alone.

The grids that a network was trained on are lost in the export, so they are recognized here. An
encoding consists of plain values times a scale per output channel: integers (linear), powers of two
from 1 down (power of two, scaled by the channel's largest), or the weights themselves, if there are
few distinct ones (codebook). Every encoding is verified by the decoder's own float32
multiplication: it is exact but for the sign of zeros, on which no layer's result depends.
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
"""Largest linear code, that of symmetric 8 bits."""
MAX_VALUES = 256
"""Maximum distinct values of an 8-bit code."""
BITS = (2, 4, 8)
"""Code widths for which ONNX has a type."""


class Encoding(StrEnum):
    """Meaning of the codes."""

    AUTO = "auto"
    LINEAR = "linear"
    POWER_OF_TWO = "power-of-two"
    CODEBOOK = "codebook"
    DENSE = "dense"


@dataclass(frozen=True)
class Scaled:
    """Weights as an exact product of plain values and a scale.

    Attributes:
        encoding: kind of the plain values.
        plain: values of the weights' shape; linear ones are integers stored as float32.
        scale: float32, broadcasts against `plain`; None if there is none.
    """

    encoding: Encoding
    plain: Array
    scale: Array | None = None

    def bits(self, stored: Array) -> int | None:
        """Minimum bits per code for these plain values; None if there are no codes.

        Args:
            stored: the plain values to store, at least one.
        """
        if self.encoding is Encoding.DENSE:
            return None
        if self.encoding is Encoding.LINEAR:
            return _code_bits(stored)
        distinct = len(np.unique(stored))
        return next((bits for bits in BITS if distinct <= 2**bits), None)


def find_encodings(weight: Array, axis: int) -> dict[Encoding, Scaled]:
    """Finds all exact encodings of a weight tensor; `dense` is always one.

    Args:
        weight: float32, or integers, which need no scale.
        axis: axis of the output channels.
    """
    found = {Encoding.DENSE: Scaled(Encoding.DENSE, weight)}
    if not np.isfinite(weight).all():
        return found
    if weight.dtype == np.float32:
        if (scale := _linear(weight, axis)) is not None:
            found[Encoding.LINEAR] = Scaled(Encoding.LINEAR, np.rint(weight / scale), scale)
        if (scale := _power_of_two(weight, axis)) is not None:
            found[Encoding.POWER_OF_TWO] = Scaled(Encoding.POWER_OF_TWO, weight / scale, scale)
    if len(np.unique(weight)) <= MAX_VALUES:
        found[Encoding.CODEBOOK] = Scaled(Encoding.CODEBOOK, weight)
    return found


def _linear(weight: Array, axis: int) -> Array | None:
    """Scale of evenly spaced levels: per channel, or per tensor if that needs no more bits."""
    channels = _per_channel(weight, axis, _step)
    whole = _step(weight)
    if channels is None or whole is None:
        return channels
    tensor = np.full((1,), whole, np.float32)
    wide, narrow = (_code_bits(np.rint(weight / scale)) for scale in (tensor, channels))
    return tensor if wide <= narrow else channels


def _code_bits(codes: Array) -> int:
    """Minimum bits for signed codes of at most `HIGHEST`."""
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
    """The largest power of two per channel, if all weights are powers of two or zero."""
    mantissas, _ = np.frexp(np.abs(weight))
    if not np.isin(mantissas, (0.0, 0.5)).all():
        return None
    scale = _per_channel(weight, axis, lambda row: np.abs(row).max() or np.float32(1.0))
    few = scale is not None and len(np.unique(weight / scale)) <= MAX_VALUES
    return scale if few else None


def _per_channel(
    weight: Array, axis: int, find: Callable[[Array], np.float32 | None]
) -> Array | None:
    """Applies `find` to each channel, shaped for broadcasting; None if it fails for one."""
    scales = []
    for row in np.moveaxis(weight, axis, 0):
        scale = find(row)
        if scale is None:
            return None
        scales.append(scale)
    # Broadcasting does not need the axes before the channels'.
    return np.array(scales, np.float32).reshape(-1, *[1] * (weight.ndim - axis - 1))
