"""A layer's weights as stored in flash: values or codes, positions, scales."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from slimq_compression.export.layers.tensors import Array

MAX_PACKED_BITS = 6
"""Wider codes are stored as whole bytes: unpacking costs time and would save little."""
MAX_SUM = 2**31 - 1
MAX_INPUT = 255
"""Largest absolute value of an 8-bit input minus its zero point."""


@dataclass(frozen=True, eq=False)
class Places:
    """Positions of the stored weights among zeros, in row-major order.

    Attributes:
        kind: `mask`, a bit per weight, or `gaps`, the distance from the previous stored weight.
        data: bytes of the mask, the first weight in the highest bit; or distances.
        bits: bits per distance.
    """

    kind: Literal["mask", "gaps"]
    data: Array
    bits: int = 8

    @property
    def bytes(self) -> int:
        """Size in flash."""
        return len(self.data) if self.kind == "mask" else packed_size(len(self.data), self.bits)


@dataclass(frozen=True, eq=False)
class Weights:
    """A weight matrix: weight = value × scale of its row, where values may be codes.

    Attributes:
        rows: number of outputs.
        columns: number of weights per output.
        values: stored values in C order: float32, or integer codes.
        table: float32 values by code; None if codes are the values themselves.
        scale: float32 `(rows,)`, or `(1,)` for all rows; None for 1.
        places: positions of the values; None if all weights are stored.
    """

    rows: int
    columns: int
    values: Array
    table: Array | None = None
    scale: Array | None = None
    places: Places | None = None

    @property
    def coded(self) -> bool:
        """Whether values are integers."""
        return self.values.dtype.kind in "iu"

    @property
    def entries(self) -> int:
        """Number of stored values."""
        return int(self.values.size)

    @property
    def signed(self) -> bool:
        """Whether codes are signed integers rather than indices into a table."""
        return self.table is None

    @property
    def bits(self) -> int:
        """Bits per stored value: the fewest that hold all codes, or a whole number of bytes."""
        if not self.coded:
            return 32
        low, high = int(self.values.min()), int(self.values.max())
        if self.signed:
            needed = next(b for b in range(2, 33) if -(2 ** (b - 1)) <= low and high < 2 ** (b - 1))
        else:
            needed = max(1, high.bit_length())
        return needed if needed <= MAX_PACKED_BITS else next(b for b in (8, 16) if needed <= b)

    @property
    def packed(self) -> bool:
        """Whether codes share bytes."""
        return self.bits < 8

    @property
    def bytes(self) -> int:
        """Size in flash."""
        values = (
            packed_size(self.entries, self.bits) if self.packed else self.entries * self.bits // 8
        )
        others = sum(4 * part.size for part in (self.table, self.scale) if part is not None)
        return values + others + (self.places.bytes if self.places else 0)

    def fits_integer_sums(self, addend: int = 0) -> bool:
        """Whether sums of codes times 8-bit inputs plus an addend cannot overflow 32 bits."""
        if not self.coded or self.table is not None:
            return False
        largest = int(np.abs(self.values.astype(np.int64)).max())
        return self.columns * MAX_INPUT * largest + addend <= MAX_SUM

    def scaled(self, factor: float) -> Weights:
        """All weights multiplied by a factor."""
        scale = np.ones(1, np.float32) if self.scale is None else self.scale
        return replace(self, scale=(scale * np.float32(factor)).astype(np.float32))

    def decoded(self) -> Array:
        """The weights, float32 `(rows, columns)`."""
        plain = self.values if self.table is None else self.table[self.values]
        if self.places is not None:
            flat = np.zeros(self.rows * self.columns, np.float32)
            flat[positions(self.places, flat.size)] = plain
            plain = flat
        matrix = plain.astype(np.float32).reshape(self.rows, self.columns)
        return matrix if self.scale is None else matrix * self.scale[:, None]


def positions(places: Places, size: int) -> Array:
    """The flat position of each stored weight."""
    if places.kind == "mask":
        return np.flatnonzero(np.unpackbits(places.data, count=size))
    return np.cumsum(places.data.astype(np.int64))


def packed_size(count: int, bits: int) -> int:
    """Bytes of packed codes, including a spare one where a reader takes two at a time."""
    return (count * bits + 7) // 8 + (0 if 8 % bits == 0 else 1)


def pack(codes: Array, bits: int) -> Array:
    """Packs codes into bytes, the first code in the lowest bits."""
    unsigned = codes.reshape(-1).astype(np.int64) & (2**bits - 1)
    spread = (unsigned[:, None] >> np.arange(bits)) & 1
    packed = np.packbits(spread.astype(np.uint8).reshape(-1), bitorder="little")
    return np.pad(packed, (0, packed_size(codes.size, bits) - len(packed)))
