"""Disturbs the states that students learn from, each time they are sampled.

A student that sees only undisturbed states relies on exact values and loses its teacher's
robustness: noise of a few levels can lose a game. The remedies are domain randomization (Tobin et
al. 2017, 1703.06907) and augmentation (Kostrikov et al. 2020, 2004.13649). Disturbances over time
(lost frames, delays, sticky actions) happen in play instead; see `Collector`.

Strengths are in the units of `slimq.core.conditions`: levels for frames, shares of each element's
spread for vectors. Shape, dtype and bounds are kept; categories and flags are never disturbed.
Frames are disturbed as in training; see `slimq.networks.frame_disturbance`. All stacked vectors of
a state share one bias; noise is drawn for each element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field

from slimq.core.conditions.catalogue import CONDITIONS, Condition, kind_of, select_conditions
from slimq.core.conditions.passage import measure_spread, sensor_of
from slimq.core.errors import InvalidInputError
from slimq.core.observation import Observations, ObservationSpec
from slimq.networks.frame_disturbance import FrameDisturbance, FrameDisturber
from slimq.networks.specification import ConvSpec, QNetworkSpec
from slimq_compression.context import PassContext

STRONGER = 2.0
"""Default strengths for frames, relative to the standard conditions': training should go beyond
them. Vectors are not disturbed by default: the sign of an element may decide, and two of three
students of MountainCar then no longer reached the goal (docs/results.md)."""

Floats = npt.NDArray[np.float64]
Disturber = Callable[[Observations], Observations]
"""Disturbs states `(batch, *shape)`, which it may change in place."""


class Disturb(BaseModel):
    """Disturbances of sampled states; each strength is a maximum, drawn anew for every state."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    probability: float = Field(
        default=0.5, ge=0.0, le=1.0, description="share of states that each disturbance affects"
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
        description="change of brightness of frames, in levels; null: twice the standard's",
    )
    contrast: float = Field(
        default=0.0, ge=0.0, le=1.0, description="change of contrast of frames, as a share"
    )
    shift: int = Field(
        default=0, ge=0, le=84, description="shift of frames along each axis, in pixels"
    )
    bias: float = Field(
        default=0.0,
        ge=0.0,
        le=10.0,
        description="constant error of each element of vectors, in shares of its spread",
    )


def make_disturber(
    params: Disturb,
    context: PassContext,
    spec: QNetworkSpec,
    field: str,
) -> Disturber:
    """Makes the function that disturbs states.

    Args:
        params: the strengths.
        context: provides the layout of states, calibration states for their spread, and the
            generator.
        spec: the network's specification; outside its window, frames may stay undisturbed.
        field: name of `params` in errors.

    Raises:
        InvalidInputError: a strength does not apply to this kind of observation.
    """
    observation, kind = context.observation, kind_of(context.observation)
    generator = context.generator.spawn(1)[0]
    refused = ("brightness", "contrast", "shift") if kind == "vectors" else ("bias",)
    for name in refused:
        if value := getattr(params, name):
            raise InvalidInputError(f"{field}.{name}", f"nothing for {kind}", f"{value:g}")
    if kind == "frames":
        disturber = FrameDisturber(
            _frame_strengths(params), observation, generator, torch.device("cpu"), _seen(spec)
        )
        return lambda states: disturber(torch.from_numpy(states)).numpy()
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
    """Reads the conditions of a step named `place`; only built-in ones can be trained under.

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


def _frame_strengths(params: Disturb) -> FrameDisturbance:
    """The strengths for frames, with defaults for those not given."""
    defaults = {
        name: STRONGER * CONDITIONS[name].standard["frames"] for name in ("noise", "brightness")
    }
    return FrameDisturbance(**defaults | params.model_dump(exclude={"bias"}, exclude_none=True))


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
        """A strength for each state, `(count, 1, …)`; 0 for states left undisturbed."""
        drawn = self.generator.random((2, count))
        strengths: Floats = most * drawn[0] * (drawn[1] < self.probability)
        return strengths.reshape(count, *[1] * (axes - 1))


def _stacked(values: npt.NDArray[Any], observation: ObservationSpec) -> npt.NDArray[Any]:
    """Repeats values of a frame's elements, `(batch, *frame)`, for each frame of a stack."""
    stack = observation.stack
    if stack is None:
        return values
    slot = values.reshape(len(values), *stack.slot(observation.shape))
    return np.concatenate([slot] * stack.count, stack.axis + 1)
