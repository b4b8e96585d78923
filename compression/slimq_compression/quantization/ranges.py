"""Chooses activation ranges from values on the calibration set.

A calibrator receives the values of one tensor batch by batch and returns `(low, high)`; it keeps
only what it needs. Adding one takes a class and a case in `make_calibrator`.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from slimq.core.observation import Observations
from slimq.networks.export import RANGES
from slimq_compression.graph.model import run_tensors
from slimq_compression.quantization.histogram import Histogram


class Calibrator(Protocol):
    """Chooses the range of one tensor."""

    def add(self, values: npt.NDArray[Any], /) -> None:
        """Adds a non-empty batch of values, of any shape."""
        ...

    def range(self) -> tuple[float, float]:
        """`(low, high)`, from all values so far."""
        ...


class Calibration(StrEnum):
    """Calibration method."""

    MIN_MAX = "min-max"
    PERCENTILE = "percentile"
    KL = "kl"
    LEARNED = "learned"


class MinMax:
    """Full range: no clipping, coarsest rounding."""

    def __init__(self) -> None:
        self._low, self._high = np.inf, -np.inf

    def add(self, values: npt.NDArray[Any], /) -> None:
        """Widens the range; a NaN makes it NaN."""
        self._low = np.minimum(self._low, values.min())
        self._high = np.maximum(self._high, values.max())

    def range(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return float(self._low), float(self._high)


class Percentile:
    """Clips magnitudes above a percentile.

    The percentile is over all values, including the zeros of a ReLU, with a resolution of 1/2048 to
    1/1024 of the range.
    """

    def __init__(self, percentile: float) -> None:
        self._share = percentile / 100.0
        self._seen = Histogram()

    def add(self, values: npt.NDArray[Any], /) -> None:
        """Counts the magnitudes; a value that is not a number spoils the range."""
        self._seen.add(values)

    def range(self) -> tuple[float, float]:
        """The range of all values, clipped at the percentile of the magnitudes."""
        return self._seen.range(self._seen.quantile(self._share))


class Divergence:
    """Clips at the threshold of least KL divergence from the real distribution (Migacz 2017)."""

    def __init__(self) -> None:
        self._seen = Histogram()

    def add(self, values: npt.NDArray[Any], /) -> None:
        """Counts the magnitudes; a value that is not a number spoils the range."""
        self._seen.add(values)

    def range(self) -> tuple[float, float]:
        """The range of all values, clipped at the threshold of least divergence."""
        return self._seen.range(self._seen.least_divergence())


def make_calibrator(calibration: Calibration, percentile: float) -> Calibrator:
    """Makes a calibrator for one tensor; `percentile` is used only by that method.

    With learned ranges, the calibrator is for tensors that have none.
    """
    match calibration:
        case Calibration.PERCENTILE:
            return Percentile(percentile)
        case Calibration.KL:
            return Divergence()
        case Calibration.MIN_MAX | Calibration.LEARNED:
            return MinMax()


def activation_ranges(
    model: onnx.ModelProto,
    tensors: list[str],
    states: Observations,
    calibration: Calibration,
    percentile: float = 99.99,
) -> dict[str, tuple[float, float]]:
    """The range of each tensor over `states`.

    Args:
        model: the fp32 model.
        tensors: float tensors of the graph.
        states: `(states, *shape)`, from real play; ranges from random noise would saturate.
        calibration: calibration method.
        percentile: percentile of the magnitudes.
    """
    calibrators = {name: make_calibrator(calibration, percentile) for name in tensors}
    for values in run_tensors(model, tensors, states):
        for name, value in values.items():
            calibrators[name].add(value)
    return {name: calibrator.range() for name, calibrator in calibrators.items()}


def learned_ranges(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """The ranges learned in training, by tensor name; empty if there are none."""
    noted = {entry.key: entry.value for entry in model.metadata_props}
    ranges: dict[str, list[float]] = json.loads(noted.get(RANGES, "{}"))
    return {name: (low, high) for name, (low, high) in ranges.items()}
