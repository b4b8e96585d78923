"""Disturbs the states on which students learn, each time that they are sampled.

A student that sees only undisturbed states relies on values that are exact there, and loses its
teacher's robustness: noise of a few levels decides a game. Domain randomization (Tobin et al. 2017,
1703.06907) and augmentation (Kostrikov et al. 2020, 2004.13649) are the remedies. What varies over
time (lost frames, delays, sticky actions) is not made here, but played; see `Collector`.

Strengths are in the units of `slimq.core.conditions`: levels for frames, shares of each element's
spread for vectors. Shape, dtype and bounds are kept; categories and flags are never disturbed.
Frames of one state share brightness, contrast and shift, vectors their bias; noise is new in each
element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from slimq.core.conditions.catalogue import CONDITIONS, Condition, kind_of, select_conditions
from slimq.core.conditions.passage import measure_spread, sensor_of
from slimq.core.errors import InvalidInputError
from slimq.core.observation import Observations, ObservationSpec
from slimq.networks.specification import ConvSpec, QNetworkSpec
from slimq_compression.context import PassContext

STRONGER = 2.0
"""Strengths for frames by default, relative to the standard set's: states should surround those to
be met. Vectors are not disturbed by default: an element may decide by its sign, and two of three
students of MountainCar then no longer reached the goal (docs/results.md)."""
NOISES = 4
"""Strengths of noise on frames: this many even steps up to the largest."""
POOL = 1 << 17
"""Places in the drawn noise at which that of a state may begin: to draw each element anew would
take longer than an update."""

Floats = npt.NDArray[np.float64]
Disturber = Callable[[Observations], Observations]
"""Disturbs states `(batch, *shape)`, which it may change in place."""


class Disturb(BaseModel):
    """Disturbances of sampled states; each strength is drawn for every state, up to the given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    probability: float = Field(
        default=0.5, ge=0.0, le=1.0, description="share of states that each of them disturbs"
    )
    noise: float | None = Field(
        default=None,
        ge=0.0,
        le=255.0,
        description="uniform noise in levels of frames, or shares of each element's spread; null: "
        "twice the standard condition's for frames, none for vectors",
    )
    brightness: float | None = Field(
        default=None,
        ge=0.0,
        le=255.0,
        description="frames brighter or darker, in levels; null: twice the standard condition's",
    )
    contrast: float = Field(
        default=0.0, ge=0.0, le=1.0, description="frames of higher or lower contrast, as a share"
    )
    shift: int = Field(default=0, ge=0, le=84, description="frames moved each way, in pixels")
    bias: float = Field(
        default=0.0,
        ge=0.0,
        le=10.0,
        description="elements of vectors too high or too low, in shares of their spread",
    )


def make_disturber(
    params: Disturb,
    context: PassContext,
    spec: QNetworkSpec,
    field: str,
) -> Disturber:
    """Makes what disturbs states.

    Args:
        params: the strengths.
        context: layout of the states, calibration states for their spread, the step's seed.
        spec: of the network that will see them; outside its window, frames may stay as they are.
        field: name of `params` in errors.

    Raises:
        InvalidInputError: a strength is for the other kind of observation.
    """
    observation, kind = context.observation, kind_of(context.observation)
    generator = context.generator.spawn(1)[0]
    refused = ("brightness", "contrast", "shift") if kind == "vectors" else ("bias",)
    for name in refused:
        if value := getattr(params, name):
            raise InvalidInputError(f"{field}.{name}", f"nothing for {kind}", f"{value:g}")
    if kind == "frames":
        return _FrameDisturber(params, observation, _seen(spec), generator)
    spread = measure_spread(context.states, observation)
    return _VectorDisturber(params, observation, spread, generator)


def _seen(spec: QNetworkSpec) -> tuple[slice, ...]:
    """The part of a state that a network sees; all of it unless channels are first."""
    body = spec.body
    if not isinstance(body, ConvSpec) or body.window is None or body.channels == "last":
        return ()
    channels, height, width = spec.observation_shape
    return tuple(slice(*span) for span in body.window.spans((channels, height, width)))


def conditions_of(
    names: Sequence[str], observation: ObservationSpec, place: str
) -> tuple[Condition, ...]:
    """Reads the conditions of a step named `place`; only built-in ones are for training.

    Raises:
        InvalidInputError: one is unknown, given twice, or not for these observations.
    """
    try:
        chosen = select_conditions(names, observation)
        for one in chosen:
            if one.name not in CONDITIONS:
                raise InvalidInputError("conditions", "built-in conditions", one.name)
    except InvalidInputError as error:
        raise InvalidInputError(f"{place}.{error.field}", error.expected, error.received) from error
    return chosen


def _strength(given: float | None, name: str) -> float:
    """A strength for frames, in levels."""
    return STRONGER * CONDITIONS[name].standard["frames"] if given is None else given


class _VectorDisturber:
    """Adds bias and noise in float64, then rounds integers and clips to the bounds."""

    def __init__(
        self,
        params: Disturb,
        observation: ObservationSpec,
        spread: list[float] | None,
        generator: np.random.Generator,
    ) -> None:
        self.probability, self.generator = params.probability, generator
        self.observation, sensor = observation, sensor_of(observation, spread)
        self.shape, self.dtype, self.unit = sensor.shape, observation.numpy_dtype, sensor.unit
        self.noise = params.noise or 0.0
        self.bias = params.bias
        self.low, self.high, self.integers = (
            _stacked(values[np.newaxis], observation)
            for values in (sensor.low, sensor.high, sensor.integers)
        )
        self.bounded = bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())
        self.rounded = bool(self.integers.any())

    def __call__(self, states: Observations) -> Observations:
        count = len(states)
        unit = _stacked(self.unit[np.newaxis], self.observation)
        noise = self._draw(self.noise, count, states.ndim) * unit
        values = states + noise * self.generator.uniform(-1, 1, states.shape)
        if self.bias:
            bias = self._draw(self.bias, count, len(self.shape) + 1) * self.unit
            bias = bias * self.generator.uniform(-1, 1, (count, *self.shape))
            values += _stacked(bias, self.observation)
        if self.rounded:
            values = np.where(self.integers, np.rint(values), values)
        if self.bounded:
            values = np.clip(values, self.low, self.high)
        disturbed: Observations = values.astype(self.dtype)
        return disturbed

    def _draw(self, most: float, count: int, axes: int) -> Floats:
        """A strength for each state, `(count, 1, …)`; 0 for those that are left as they are."""
        drawn = self.generator.random((2, count))
        strengths: Floats = most * drawn[0] * (drawn[1] < self.probability)
        return strengths.reshape(count, *[1] * (axes - 1))


def _stacked(values: npt.NDArray[Any], observation: ObservationSpec) -> npt.NDArray[Any]:
    """Values of a frame's elements, `(batch, *frame)`, for each frame of a stack."""
    stack = observation.stack
    if stack is None:
        return values
    slot = values.reshape(len(values), *stack.slot(observation.shape))
    return np.concatenate([slot] * stack.count, stack.axis + 1)


class _Noise(NamedTuple):
    """Drawn noise: what brightens each element, what is left above it, and what darkens."""

    brighter: npt.NDArray[np.uint8]
    above: npt.NDArray[np.uint8]
    darker: npt.NDArray[np.uint8]

    def add_to(self, values: npt.NDArray[np.uint8], start: int) -> None:
        """Adds as many elements from `start` on, in place."""
        brighter, above, darker = (
            one[start : start + values.size].reshape(values.shape) for one in self
        )
        np.maximum(values, darker, out=values)
        values -= darker
        np.minimum(values, above, out=values)
        values += brighter


class _FrameDisturber:
    """Disturbs bytes state by state, since one state fits a processor's cache.

    Sums saturate at each disturbance, as in a camera: min(x, most − d) + d.
    """

    def __init__(
        self,
        params: Disturb,
        observation: ObservationSpec,
        seen: tuple[slice, ...],
        generator: np.random.Generator,
    ) -> None:
        self.probability, self.generator, self.seen = params.probability, generator, seen
        self.shift, self.contrast = params.shift, params.contrast
        self.brightness = _strength(params.brightness, "brightness")
        self.image = _image_axes(observation)
        high = observation.high
        self.most = 255 if high is None else min(255, int(high))
        noise = _strength(params.noise, "noise")
        strengths = [noise * step / NOISES for step in range(1, NOISES + 1)] if noise else []
        self.noises = [self._draw_noise(most, POOL + observation.size) for most in strengths]

    def _draw_noise(self, strength: float, length: int) -> _Noise:
        drawn = np.rint(strength * self.generator.uniform(-1, 1, length))
        brighter = np.clip(drawn, 0, self.most).astype(np.uint8)
        darker = np.clip(-drawn, 0, 255).astype(np.uint8)
        return _Noise(brighter, self.most - brighter, darker)

    def __call__(self, states: Observations) -> Observations:
        chosen = self.generator.random((len(states), 4)) < self.probability
        drawn = self.generator.uniform(-1, 1, (len(states), 4)) * chosen
        for state, (contrast, brightness, noise, _), moves in zip(
            states, drawn.tolist(), chosen[:, 3].tolist(), strict=True
        ):
            if moves and self.shift:
                state[...] = self._shifted(state)
            seen: npt.NDArray[np.uint8] = state[self.seen]
            if self.contrast and contrast:
                self._stretch(seen, 1.0 + self.contrast * contrast)
            self._brighten(seen, round(self.brightness * brightness))
            if self.noises and noise:
                pool = self.noises[min(int(abs(noise) * NOISES), NOISES - 1)]
                pool.add_to(seen, int(self.generator.integers(POOL)))
        return states

    def _stretch(self, frames: npt.NDArray[np.uint8], factor: float) -> None:
        """Multiplies differences from the mean by a factor, in place."""
        mean = float(frames.mean())
        levels = np.rint(mean + factor * (np.arange(256) - mean)).clip(0, self.most)
        frames[...] = levels.astype(np.uint8)[frames]

    def _brighten(self, frames: npt.NDArray[np.uint8], offset: int) -> None:
        """Adds levels in place."""
        if offset > 0:
            offset = min(offset, self.most)
            np.minimum(frames, np.full(frames.shape, self.most - offset, np.uint8), out=frames)
            frames += np.uint8(offset)
        elif offset < 0:
            np.maximum(frames, np.full(frames.shape, -offset, np.uint8), out=frames)
            frames -= np.uint8(-offset)

    def _shifted(self, state: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The state moved by up to `shift` pixels each way; edges are repeated."""
        for axis in self.image:
            by = int(self.generator.integers(-self.shift, self.shift, endpoint=True))
            places = np.clip(np.arange(state.shape[axis]) + by, 0, state.shape[axis] - 1)
            state = state.take(places, axis)
        return state


def _image_axes(observation: ObservationSpec) -> tuple[int, int]:
    """Axes of height and width in a state."""
    frame = observation.frame
    rows, columns = sensor_of(observation, None).image_axes
    stack = observation.stack
    if stack is None or len(frame.shape) == len(observation.shape):
        return rows, columns
    before = stack.axis
    return rows + (rows >= before), columns + (columns >= before)
