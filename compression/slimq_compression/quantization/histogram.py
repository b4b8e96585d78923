"""A histogram of magnitudes that widens as batches come, and thresholds found in it.

Clipping the rare large activations leaves finer levels for all the others. Both thresholds here
say where to clip: at a quantile, or where the quantized distribution tells least apart from the
real one (Migacz 2017, "8-bit inference with TensorRT", slides 29–38).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 2_048

Counts = npt.NDArray[np.int64]


class Histogram:
    """Of |x|, in `BINS` equal bins from 0 on; 16 kB whatever it has seen.

    The first batch sets the width of the bins. A larger value doubles it as often as it takes, and
    neighbours are merged, so that every count stays exact.

    Attributes:
        counts: `(BINS,)`.
        width: of a bin; 0 as long as every value was 0.
        low: smallest value.
        high: largest value; both are NaN once a value was.
    """

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(BINS, np.int64)
        self.width = 0.0
        self.low, self.high = np.inf, -np.inf

    def add(self, values: npt.NDArray[Any], /) -> None:
        """Counts a batch of values, of any shape but none empty."""
        self.low = float(np.minimum(self.low, values.min()))
        self.high = float(np.maximum(self.high, values.max()))
        magnitudes = np.abs(values, dtype=np.float64).ravel()
        largest = float(magnitudes.max())
        if not np.isfinite(largest):
            return
        if self.width == 0.0:
            self.width = largest / BINS
        if self.width == 0.0:
            self.counts[0] += magnitudes.size
            return
        while largest > self.width * BINS:
            self.counts[: BINS // 2] = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[BINS // 2 :] = 0
            self.width *= 2.0
        bins = np.minimum((magnitudes / self.width).astype(np.int64), BINS - 1)
        self.counts += np.bincount(bins, minlength=BINS)

    def range(self, threshold: float) -> tuple[float, float]:
        """What is left of the range of all values within ±`threshold`."""
        if not np.isfinite([self.low, self.high]).all():
            return self.low, self.high
        return max(self.low, -threshold), min(self.high, threshold)

    def quantile(self, share: float) -> float:
        """The magnitude that at least `share` of all values do not exceed, to a bin."""
        wanted = round(share * float(self.counts.sum()), 3)  # 0.999 · 50,000 is 49,950
        reached = np.cumsum(self.counts) >= wanted
        return float(np.argmax(reached) + 1) * self.width

    def least_divergence(self) -> float:
        """The threshold with the least divergence of the clipped and quantized distribution.

        Magnitudes have 255 levels where no value is negative, as after a ReLU, otherwise 128.
        """
        used = int(np.flatnonzero(self.counts)[-1]) + 1 if self.counts.any() else 0
        counts = self.counts[:used].astype(np.float64)
        levels = 255 if self.low >= 0.0 else 128
        if used <= levels:
            return used * self.width
        # Zero is a level of its own under every threshold: what a ReLU piles up there would drown
        # the rest (so do NVIDIA's own implementations).
        counts[0] = counts[1]
        candidates = range(levels, used + 1)
        divergences = [_divergence(counts, cut, levels) for cut in candidates]
        # Of equal ones the largest, which clips least.
        best = len(divergences) - 1 - int(np.argmin(divergences[::-1]))
        return candidates[best] * self.width


def _divergence(counts: npt.NDArray[np.float64], cut: int, levels: int) -> float:
    """KL(P‖Q) of the clipped distribution P and its quantized form Q.

    P counts what lies beyond the cut to its last bin. Q spreads what falls to a level evenly over
    those bins of the level that are not empty; empty ones stay so.
    """
    inside = counts[:cut]
    clipped = inside.copy()
    clipped[-1] += counts[cut:].sum()
    level = np.arange(cut) * levels // cut
    full = inside > 0
    total = np.bincount(level, weights=inside, minlength=levels)
    members = np.bincount(level, weights=full, minlength=levels)
    quantized = np.where(full, (total / np.maximum(members, 1.0))[level], 0.0)
    if not quantized.any() or (quantized[clipped > 0] == 0).any():
        return np.inf
    p, q = clipped / clipped.sum(), quantized / quantized.sum()
    present = p > 0
    return float((p[present] * np.log(p[present] / q[present])).sum())
