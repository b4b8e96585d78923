"""Scales of linear codes w = s·q: recovered if weights are on levels, fitted otherwise.

Weights trained on `LinearLevels` are exactly a bfloat16 scale times an integer, but the scales are
lost in the export. They are recovered here from the weights and verified bit for bit, so that
encoding is lossless.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PROBE = 16
"""Weights of a row on which a scale is tested before the whole row."""
CLIPS = np.linspace(0.5, 1.0, 21)
"""Shares of the largest weight to try as the largest level."""

Floats = npt.NDArray[np.float32]


def exact_scales(rows: Floats, highest: int) -> Floats:
    """Recovers the exact scale of each row.

    A row's largest weight is the scale times an integer from 1 to `highest`, so there are no other
    candidates.

    Args:
        rows: `(rows, weights)`.
        highest: largest |q|.

    Returns:
        `(rows,)`: s such that q·s equals every weight in float32; 0 for a row of zeros, NaN for a
        row that is not on levels.
    """
    largest = np.abs(rows).max(axis=1)
    scales = np.where(largest > 0, np.float32(np.nan), np.float32(0.0)).astype(np.float32)
    for code in range(highest, 0, -1):
        (waiting,) = np.nonzero(np.isnan(scales))
        if not len(waiting):
            break
        tried = _round_to_bfloat16(largest[waiting] / np.float32(code))
        likely = _are_levels(rows[waiting, :PROBE], tried, highest)
        waiting, tried = waiting[likely], tried[likely]
        found = _are_levels(rows[waiting], tried, highest)
        scales[waiting[found]] = tried[found]
    return scales


def weight_scales(rows: Floats, highest: int) -> Floats:
    """The exact scale of each row, or the one that maps its largest weight to the largest code.

    A row of zeros gets the smallest of the other scales: any scale fits its weights, but its bias
    is rounded to a multiple of the scale.

    Args:
        rows: `(rows, weights)`.
        highest: largest |q|.

    Returns:
        `(rows,)`, all positive.
    """
    exact = exact_scales(rows, highest)
    plain = np.abs(rows).max(axis=1) / np.float32(highest)
    scales = np.where(np.isnan(exact), plain, exact).astype(np.float32)
    used = scales[scales > 0]
    scales[scales <= 0] = used.min() if len(used) else 1.0
    return scales


def fitted_scales(rows: Floats, lowest: int, highest: int) -> Floats:
    """The scale of least squared error for each row, searched over clipping and refined once.

    For given codes q the optimal scale is w·q / q·q; it is used if its own codes reduce the error.

    Args:
        rows: `(rows, weights)`.
        lowest: smallest code.
        highest: largest code.

    Returns:
        `(rows,)`; 1 for a row of zeros.
    """
    largest = np.abs(rows).max(axis=1)
    top = np.where(largest > 0, largest / np.float32(highest), np.float32(1.0)).astype(np.float32)
    best = top
    least = _squared_error(rows, best, lowest, highest)
    for clip in CLIPS[:-1].astype(np.float32):
        best, least = _better(rows, best, least, top * clip, lowest, highest)
    codes = linear_codes(rows, best, lowest, highest).astype(np.float32)
    power = np.square(codes).sum(axis=1)
    refined = np.where(power > 0, (rows * codes).sum(axis=1) / np.maximum(power, 1.0), best)
    usable = np.where(refined > 0, refined, best).astype(np.float32)
    return _better(rows, best, least, usable, lowest, highest)[0]


def linear_codes(rows: Floats, scales: Floats, lowest: int, highest: int) -> npt.NDArray[np.int8]:
    """The nearest code for every weight, `(rows, weights)`."""
    codes: npt.NDArray[np.int8] = (
        np.rint(rows / scales[:, None]).clip(lowest, highest).astype(np.int8)
    )
    return codes


def _better(
    rows: Floats, best: Floats, least: Floats, tried: Floats, lowest: int, highest: int
) -> tuple[Floats, Floats]:
    error = _squared_error(rows, tried, lowest, highest)
    closer = error < least
    return np.where(closer, tried, best), np.where(closer, error, least)


def _squared_error(rows: Floats, scales: Floats, lowest: int, highest: int) -> Floats:
    decoded = linear_codes(rows, scales, lowest, highest) * scales[:, None]
    error: Floats = np.square(rows - decoded).sum(axis=1)
    return error


def _are_levels(rows: Floats, scales: Floats, highest: int) -> npt.NDArray[np.bool_]:
    """Whether each row equals its scale times integers, bit for bit."""
    codes = np.rint(rows / scales[:, None])
    same = (codes * scales[:, None] == rows) & (np.abs(codes) <= highest)
    exact: npt.NDArray[np.bool_] = same.all(axis=1)
    return exact


def _round_to_bfloat16(values: Floats) -> Floats:
    """Rounds to bfloat16, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)
