"""Observations to check an import on, and the measure of its error."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slimq.core.observation import INTEGER_RANGES, Observations, ObservationSpec
from slimq.core.qfunction import QFunction, QValues

BATCH = 256
FAR = 1e3
"""Bounds beyond this are taken as none: observations are then drawn from a normal distribution."""


def draw_observations(observation: ObservationSpec, count: int, seed: int = 0) -> Observations:
    """Draws observations within the bounds of a layout, `(count, *shape)`.

    Unbounded numbers are standard normal; categories and integers are uniform.
    """
    generator = np.random.default_rng(seed)
    if observation.parts is None:
        low, high = observation.low, observation.high
        if observation.dtype != "float32":
            smallest, largest = INTEGER_RANGES[observation.dtype]
            if observation.dtype == "int32" and (low is None or high is None):
                smallest, largest = 0, 1
            low = smallest if low is None else low
            high = largest if high is None else high
            shape = (count, *observation.shape)
            values = generator.integers(int(low), int(high), shape, endpoint=True)
            return observation.check(values.astype(observation.dtype))
        drawn = _numbers(generator, (count, *observation.shape), low, high)
        return observation.check(drawn.astype(np.float32))
    parts: dict[str, npt.NDArray[Any]] = {}
    for part in observation.parts:
        if part.categories is not None:
            first = np.array(part.first)
            codes = generator.integers(first, first + np.array(part.categories), (count, part.size))
            parts[part.name] = codes.reshape(count, *part.shape)
        elif part.integer:
            low, high = part.low or 0.0, 1.0 if part.high is None else part.high
            size = (count, *part.shape)
            parts[part.name] = generator.integers(int(low), int(high), size, endpoint=True)
        else:
            parts[part.name] = _numbers(generator, (count, *part.shape), part.low, part.high)
    return observation.join(parts)


def _numbers(
    generator: np.random.Generator, shape: tuple[int, ...], low: float | None, high: float | None
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    if low is None or high is None or max(abs(low), abs(high)) > FAR:
        drawn = generator.normal(size=shape)
        return np.clip(drawn, low, high) if low is not None or high is not None else drawn
    return generator.uniform(low, high, shape)


def evaluate(q_function: QFunction, states: Observations) -> QValues:
    """Q-values of many states, in batches."""
    batches = [q_function(states[i : i + BATCH]) for i in range(0, len(states), BATCH)]
    return np.concatenate(batches).astype(np.float32)


def relative_error(expected: QValues, found: QValues) -> float:
    """The largest difference, relative to the largest expected value in absolute terms.

    Infinite if the shapes differ or a value is not finite.
    """
    if expected.shape != found.shape or not np.isfinite(found).all():
        return float("inf")
    difference = float(np.abs(expected.astype(np.float64) - found).max(initial=0.0))
    scale = float(np.abs(expected).max(initial=0.0))
    return difference / scale if scale else difference
