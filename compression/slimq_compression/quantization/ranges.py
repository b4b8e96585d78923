"""From the values of an activation on the calibration set to the range that its codes cover.

A calibrator sees the values of one tensor batch by batch and answers `(low, high)`; it keeps what
it needs and no more. Adding one is a class and a case of `make_calibrator`.
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
        """Takes note of a batch of values, of any shape but none empty."""
        ...

    def range(self) -> tuple[float, float]:
        """`(low, high)` for all values so far."""
        ...


class Calibration(StrEnum):
    """How a range is chosen."""

    MIN_MAX = "min-max"
    PERCENTILE = "percentile"
    KL = "kl"
    LEARNED = "learned"


class MinMax:
    """The whole range: nothing is clipped, rounding is coarsest."""

    def __init__(self) -> None:
        self._low, self._high = np.inf, -np.inf

    def add(self, values: npt.NDArray[Any], /) -> None:
        """Widens the range; a value that is not a number spoils it."""
        self._low = np.minimum(self._low, values.min())
        self._high = np.maximum(self._high, values.max())

    def range(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return float(self._low), float(self._high)


class Percentile:
    """Clips the largest magnitudes: all but `percentile` per cent of the values.

    The quantile is that of all values, the zeros behind a ReLU among them, to a 2048th to 1024th of
    the range.
    """

    def __init__(self, percentile: float) -> None:
        self._share = percentile / 100.0
        self._seen = Histogram()

    def add(self, values: npt.NDArray[Any], /) -> None:
        """Counts the magnitudes; a value that is not a number spoils the range."""
        self._seen.add(values)

    def range(self) -> tuple[float, float]:
        """The range of all values, within the quantile of the magnitudes."""
        return self._seen.range(self._seen.quantile(self._share))


class Divergence:
    """Clips where the quantized distribution diverges least from the real one (Migacz 2017)."""

    def __init__(self) -> None:
        self._seen = Histogram()

    def add(self, values: npt.NDArray[Any], /) -> None:
        """Counts the magnitudes; a value that is not a number spoils the range."""
        self._seen.add(values)

    def range(self) -> tuple[float, float]:
        """The range of all values, within the threshold of least divergence."""
        return self._seen.range(self._seen.least_divergence())


def make_calibrator(calibration: Calibration, percentile: float) -> Calibrator:
    """A calibrator for one tensor; `percentile` matters to the one of that name alone.

    Where ranges are learned, this is for the tensors that have none.
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
        model: in fp32.
        tensors: float tensors of the graph.
        states: `(states, *shape)`, of real play: uniform noise gives ranges that saturate.
        calibration: how to choose.
        percentile: of the magnitudes, in per cent.
    """
    calibrators = {name: make_calibrator(calibration, percentile) for name in tensors}
    for values in run_tensors(model, tensors, states):
        for name, value in values.items():
            calibrators[name].add(value)
    return {name: calibrator.range() for name, calibrator in calibrators.items()}


def learned_ranges(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """The ranges that the network learned while it was trained, by tensor; empty without any."""
    noted = {entry.key: entry.value for entry in model.metadata_props}
    ranges: dict[str, list[float]] = json.loads(noted.get(RANGES, "{}"))
    return {name: (low, high) for name, (low, high) in ranges.items()}
