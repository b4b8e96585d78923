"""From the values of an activation on the calibration set to the range that its codes cover.

A calibrator sees the values of one tensor batch by batch and answers `(low, high)`; it keeps what
it needs and no more. Adding one (percentile, KL divergence after Migacz 2017, from a histogram) is
a class and a row of `CALIBRATORS`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from slimq.core.observation import Observations
from slimq_compression.graph import run_tensors


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


CALIBRATORS: dict[Calibration, type[Calibrator]] = {Calibration.MIN_MAX: MinMax}


def activation_ranges(
    model: onnx.ModelProto,
    tensors: list[str],
    states: Observations,
    calibration: Calibration,
) -> dict[str, tuple[float, float]]:
    """The range of each tensor over `states`.

    Args:
        model: in fp32.
        tensors: float tensors of the graph.
        states: `(states, *shape)`, of real play: uniform noise gives ranges that saturate.
        calibration: how to choose.
    """
    calibrators = {name: CALIBRATORS[calibration]() for name in tensors}
    for values in run_tensors(model, tensors, states):
        for name, value in values.items():
            calibrators[name].add(value)
    return {name: calibrator.range() for name, calibrator in calibrators.items()}
