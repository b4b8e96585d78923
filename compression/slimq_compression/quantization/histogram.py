"""Histogram of magnitudes that widens as needed, and clipping thresholds derived from it.

Clipping the rare large activations leaves finer levels for all others. There are two thresholds: a
quantile, and the one that minimizes the divergence of the quantized distribution from the real one
(Migacz 2017, "8-bit inference with TensorRT", slides 29–38).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 2_048

Counts = npt.NDArray[np.int64]


class Histogram:
    """Histogram of |x| in `BINS` equal bins from 0; always 16 kB.

    The first batch sets the bin width. For larger values it is doubled as often as necessary by
    merging neighbouring bins, so that counts stay exact.

    Attributes:
        counts: `(BINS,)`.
        width: bin width; 0 as long as all values are 0.
        low: smallest value.
        high: largest value; `low` and `high` are NaN once a value is.
    """

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(BINS, np.int64)
        self.width = 0.0
        self.low, self.high = np.inf, -np.inf

    def add(self, values: npt.NDArray[Any], /) -> None:
        """Counts a non-empty batch of values, of any shape."""
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
        """The range of all values, clipped to ±`threshold`."""
        if not np.isfinite([self.low, self.high]).all():
            return self.low, self.high
        return max(self.low, -threshold), min(self.high, threshold)

    def quantile(self, share: float) -> float:
        """The magnitude that a `share` of all values does not exceed, at the edge of a bin."""
        wanted = round(share * float(self.counts.sum()), 3)  # 0.999 · 50,000 is 49,950
        reached = np.cumsum(self.counts) >= wanted
        return float(np.argmax(reached) + 1) * self.width

    def least_divergence(self) -> float:
        """The threshold that minimizes the divergence of the clipped and quantized distribution.

        Magnitudes have 255 levels if no value is negative, as after a ReLU, otherwise 128.
        """
        used = int(np.flatnonzero(self.counts)[-1]) + 1 if self.counts.any() else 0
        counts = self.counts[:used].astype(np.float64)
        levels = 255 if self.low >= 0.0 else 128
        if used <= levels:
            return used * self.width
        # Zero is its own level under every threshold, and a ReLU's zeros would dominate the rest;
        # NVIDIA's implementations replace the count too.
        counts[0] = counts[1]
        candidates = range(levels, used + 1)
        divergences = [_divergence(counts, cut, levels) for cut in candidates]
        # Among equals, choose the largest threshold, which clips least.
        best = len(divergences) - 1 - int(np.argmin(divergences[::-1]))
        return candidates[best] * self.width


def _divergence(counts: npt.NDArray[np.float64], cut: int, levels: int) -> float:
    """KL(P‖Q) of the clipped distribution P and the quantized distribution Q.

    P adds the counts beyond the cut to its last bin. Q spreads the counts of a level evenly over
    its non-empty bins; empty ones stay empty.
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
