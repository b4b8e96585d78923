"""Disturbances of observations and actions, as caused by cameras, sensors and actuators.

Each function takes a sensor (or a number of actions), a strength and the episode's generator, and
returns a channel: a function from each new frame (or action) to the one that arrives. All obey
three rules: the same seed gives the same result; strength 0 changes nothing; shape, dtype and
bounds are kept.

The perturbations of images follow Hendrycks & Dietterich 2019, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations"; sticky actions, Machado et al. 2018, section 5.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Channel = Callable[[Frame], Frame | None]
"""Maps a new frame to the one that arrives; None if none does."""
ActionChannel = Callable[[int], int]
Generator = np.random.Generator


@dataclass(frozen=True, eq=False)
class Sensor:
    """The layout of one frame or vector as it arrives.

    Attributes:
        shape: shape of a frame, or of a whole observation if frames are not stacked.
        dtype: dtype of its elements.
        unit: `shape`, the unit of strengths: one level of an image, or the spread of an element in
            the policy's own play; 0 for categories and flags.
        low: `shape`, smallest value of each element.
        high: `shape`, largest value of each element.
        integers: `shape`, mask of the integer elements.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    unit: Floats
    low: Floats
    high: Floats
    integers: npt.NDArray[np.bool_]

    def restore(self, values: Floats) -> Frame:
        """Rounds integer elements, clips to the bounds and casts; all of `shape`."""
        rounded = np.where(self.integers, np.rint(values), values)
        return np.clip(rounded, self.low, self.high).astype(self.dtype)

    @property
    def image_axes(self) -> tuple[int, int]:
        """Height and width: the two longest axes, in order."""
        longest = sorted(range(len(self.shape)), key=lambda axis: (-self.shape[axis], axis))[:2]
        first, second = sorted(longest)
        return first, second


def noise(sensor: Sensor, strength: float, generator: Generator) -> Channel:
    """Adds uniform noise of ±strength units, drawn for every element of every frame."""

    def disturb(frame: Frame) -> Frame:
        return sensor.restore(
            frame + strength * sensor.unit * generator.uniform(-1, 1, frame.shape)
        )

    return disturb


def bias(sensor: Sensor, strength: float, generator: Generator) -> Channel:
    """Shifts each element up or down by `strength` units for the whole episode."""
    offset = strength * sensor.unit * generator.choice((-1.0, 1.0), sensor.shape)
    return lambda frame: sensor.restore(frame + offset)


def brightness(sensor: Sensor, strength: float, generator: Generator) -> Channel:
    """Makes all frames of an episode brighter or darker by the same number of levels."""
    offset = strength * sensor.unit * generator.choice((-1.0, 1.0))
    return lambda frame: sensor.restore(frame + offset)


def contrast(sensor: Sensor, strength: float, generator: Generator) -> Channel:
    """Multiplies differences from each frame's mean by 1 + strength or 1 − strength."""
    factor = 1.0 + strength * float(generator.choice((-1.0, 1.0)))

    def disturb(frame: Frame) -> Frame:
        mean = frame.mean()
        return sensor.restore(mean + factor * (frame - mean))

    return disturb


def shift(sensor: Sensor, strength: float, generator: Generator) -> Channel:
    """Shifts all frames of an episode by up to `strength` pixels per axis; edges are repeated."""
    pixels = int(strength)
    indices: list[npt.NDArray[np.intp]] = []
    for axis in sensor.image_axes:
        moved = np.arange(sensor.shape[axis]) + generator.integers(-pixels, pixels, endpoint=True)
        indices.append(np.clip(moved, 0, sensor.shape[axis] - 1))
    (one, rows), (other, columns) = zip(sensor.image_axes, indices, strict=True)
    return lambda frame: frame.take(rows, one).take(columns, other)


def blur(sensor: Sensor, strength: float, generator: Generator) -> Channel:  # noqa: ARG001
    """Blurs frames by a Gaussian with a standard deviation of `strength` pixels."""
    if not strength:
        return lambda frame: frame
    radius = math.ceil(3 * strength)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / strength) ** 2)
    weights /= weights.sum()

    def disturb(frame: Frame) -> Frame:
        values = frame.astype(np.float64)
        for axis in sensor.image_axes:
            places = np.arange(frame.shape[axis])
            values = sum(
                weight * values.take(np.clip(places + step, 0, places[-1]), axis)
                for step, weight in enumerate(weights.tolist(), start=-radius)
            )
        return sensor.restore(values)

    return disturb


def lost(sensor: Sensor, strength: float, generator: Generator) -> Channel:  # noqa: ARG001
    """Loses each frame but the first with probability `strength`; the stack stays unchanged."""
    steps = itertools.count()
    return lambda frame: None if next(steps) and generator.random() < strength else frame


def blank(sensor: Sensor, strength: float, generator: Generator) -> Channel:
    """Blanks each frame with probability `strength`."""
    lowest = np.broadcast_to(np.where(np.isfinite(sensor.low), sensor.low, 0.0), sensor.shape)
    empty = sensor.restore(lowest)
    return lambda frame: empty if generator.random() < strength else frame


def repeated(sensor: Sensor, strength: float, generator: Generator) -> Channel:  # noqa: ARG001
    """Replaces each frame, with probability `strength`, with the one that arrived before it."""
    before: Frame | None = None

    def disturb(frame: Frame) -> Frame:
        nonlocal before
        held = generator.random() < strength and before is not None
        before = before if held else frame
        return before  # type: ignore[return-value]

    return disturb


def held(sensor: Sensor, strength: float, generator: Generator) -> Channel:
    """Keeps each element, with probability `strength`, at the value that arrived before."""
    before: Frame | None = None

    def disturb(frame: Frame) -> Frame:
        nonlocal before
        kept = generator.random(sensor.shape) < strength
        before = frame if before is None else np.where(kept, before, frame)
        return before

    return disturb


def quantized(sensor: Sensor, strength: float, generator: Generator) -> Channel:  # noqa: ARG001
    """Rounds each element to a multiple of `strength` units."""
    step = strength * sensor.unit
    divisor = np.where(step > 0, step, 1.0)

    def disturb(frame: Frame) -> Frame:
        return sensor.restore(np.where(step > 0, np.rint(frame / divisor) * step, frame))

    return disturb


def delayed(sensor: Sensor, strength: float, generator: Generator) -> Channel:  # noqa: ARG001
    """Delivers each frame `strength` steps late; until then, the first one."""
    waiting: deque[Frame] = deque(maxlen=int(strength) + 1)

    def disturb(frame: Frame) -> Frame:
        waiting.append(frame)
        return waiting[0]

    return disturb


def sticky(actions: int, strength: float, generator: Generator) -> ActionChannel:  # noqa: ARG001
    """Repeats the action taken before with probability `strength` (Machado et al. 2018)."""
    before: int | None = None

    def disturb(action: int) -> int:
        nonlocal before
        repeats = generator.random() < strength and before is not None
        before = before if repeats else action
        return before  # type: ignore[return-value]

    return disturb


def started(actions: int, strength: float, generator: Generator) -> ActionChannel:
    """Takes up to `strength` random actions at the start of an episode."""
    count = int(generator.integers(int(strength), endpoint=True))
    steps = itertools.count()
    return lambda action: int(generator.integers(actions)) if next(steps) < count else action
