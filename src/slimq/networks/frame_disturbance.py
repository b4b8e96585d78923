"""Disturbs the frames of sampled minibatches: shift, contrast, brightness, noise.

A network that only sees undisturbed frames relies on exact values. Random shifts with repeated
edges are those of Kostrikov et al. 2020 (DrQ, 2004.13649), section 3.1; contrast, brightness and
noise are domain randomization (Tobin et al. 2017, 1703.06907). The trainer disturbs the minibatches
from its replay buffer, compression those of its students.

A state's frames share shift, contrast and brightness; noise differs in each element. Shape, dtype
and bounds are kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from slimq.core.conditions.passage import sensor_of
from slimq.core.observation import ObservationSpec

NOISES = 4
"""Number of strengths of noise, in even steps up to the maximum."""
POOL = 1 << 17
"""Number of offsets into a pool of noise at which a state's noise may begin; drawing new noise for
each element would take as long as everything else together."""


class FrameDisturbance(BaseModel):
    """Disturbances of sampled frames; each strength is a maximum, drawn anew for every state."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    probability: float = Field(
        default=0.5, ge=0.0, le=1.0, description="share of states that each disturbance affects"
    )
    shift: int = Field(
        default=0, ge=0, le=84, description="shift along each axis, in pixels; edges are repeated"
    )
    contrast: float = Field(
        default=0.0, ge=0.0, le=1.0, description="change of contrast, as a share"
    )
    brightness: float = Field(
        default=0.0, ge=0.0, le=255.0, description="change of brightness, in levels"
    )
    noise: float = Field(
        default=0.0, ge=0.0, le=255.0, description="uniform noise in each element, in levels"
    )


class FrameDisturber:
    """Disturbs minibatches of frames on their device.

    Strengths are drawn on the CPU, so that a seed gives the same ones on every device. Sums
    saturate at each disturbance, as in a camera: min(x, most − d) + d.

    Attributes:
        generator: source of all randomness; restoring its state after construction repeats the
            draws.
    """

    def __init__(
        self,
        strengths: FrameDisturbance,
        observation: ObservationSpec,
        generator: np.random.Generator,
        device: torch.device,
        seen: tuple[slice, ...] = (),
    ) -> None:
        """Draws the pool of noise.

        Args:
            strengths: the disturbances and their strengths.
            observation: layout of the states; of the kind `frames`.
            generator: a seeded generator.
            device: device of the minibatches.
            seen: the part of a state to disturb, except by shifts; all of it by default.
        """
        self.strengths, self.generator, self.device = strengths, generator, device
        self.part = (slice(None), *seen)
        self.image = _image_axes(observation)
        self.most = 255 if observation.high is None else min(255, int(observation.high))
        self._length = POOL + observation.size
        self._pool = self._draw_noise() if strengths.noise else None

    def __call__(self, states: Tensor) -> Tensor:
        """Disturbs uint8 states `(batch, *shape)`, which it may change in place."""
        strengths, count = self.strengths, len(states)
        chosen = self.generator.random((4, count)) < strengths.probability
        contrast, brightness, noise = self.generator.uniform(-1, 1, (3, count)) * chosen[1:]
        if strengths.shift:
            states = self._shift(states, chosen[0])
        part = states[self.part]
        if strengths.contrast:
            self._stretch(part, 1.0 + strengths.contrast * contrast)
        if strengths.brightness:
            offsets = self._each(np.rint(strengths.brightness * brightness), part)
            brighter = offsets.clamp(0, self.most).to(torch.uint8)
            darker = offsets.neg().clamp(0, 255).to(torch.uint8)
            _add(part, brighter, self.most - brighter, darker)
        if self._pool is not None:
            levels = np.ceil(NOISES * np.abs(noise)).astype(np.int64)
            _add(part, *self._take_noise(self._pool, levels, part))
        return states

    def _each(self, values: npt.NDArray[Any], part: Tensor) -> Tensor:
        """One value for each state, `(batch, 1, …)` in float32."""
        each = torch.from_numpy(values.astype(np.float32)).to(self.device)
        return each.view(-1, *[1] * (part.ndim - 1))

    def _shift(self, states: Tensor, chosen: npt.NDArray[np.bool_]) -> Tensor:
        """Shifts the chosen states by up to `shift` pixels along each axis of the image."""
        most = self.strengths.shift
        moves = self.generator.integers(-most, most, (2, len(states), 1), endpoint=True)
        rows, columns = (axis + 1 for axis in self.image)
        images = states.movedim((rows, columns), (-2, -1))
        height, width = images.shape[-2:]
        down, right = moves * chosen[:, np.newaxis]
        from_rows = np.clip(np.arange(height) + down, 0, height - 1)
        from_columns = np.clip(np.arange(width) + right, 0, width - 1)
        places = (from_rows[:, :, np.newaxis] * width + from_columns[:, np.newaxis]).reshape(
            len(states), 1, -1
        )
        flat = images.reshape(len(states), -1, height * width)
        moved = flat.gather(2, torch.from_numpy(places).to(self.device).expand_as(flat))
        return moved.view(images.shape).movedim((-2, -1), (rows, columns))

    def _stretch(self, part: Tensor, factors: npt.NDArray[np.float64]) -> None:
        """Multiplies differences from each state's mean by its factor, in place."""
        values = part.float()
        means = values.mean(dim=tuple(range(1, part.ndim)), keepdim=True)
        values.sub_(means).mul_(self._each(factors, part)).add_(means)
        part.copy_(values.round_().clamp_(0, self.most))

    def _draw_noise(self) -> tuple[Tensor, Tensor, Tensor]:
        """Draws noise of each strength: levels to add, `most` minus these, and to subtract."""
        steps = self.strengths.noise * np.arange(NOISES + 1) / NOISES
        drawn = np.rint(
            steps[:, np.newaxis] * self.generator.uniform(-1, 1, (NOISES + 1, self._length))
        )
        brighter = np.clip(drawn, 0, self.most).astype(np.uint8)
        darker = np.clip(-drawn, 0, 255).astype(np.uint8)
        first, second, third = (
            torch.from_numpy(values.ravel()).to(self.device)
            for values in (brighter, self.most - brighter, darker)
        )
        return first, second, third

    def _take_noise(
        self, pool: tuple[Tensor, ...], levels: npt.NDArray[np.int64], part: Tensor
    ) -> list[Tensor]:
        """Takes noise of each state's strength, from a random offset, shaped like `part`."""
        size = part[0].numel()
        starts = self._length * levels + self.generator.integers(POOL, size=len(levels))
        places = torch.from_numpy(starts).to(self.device)
        return [
            values.as_strided((len(values) - size + 1, size), (1, 1))
            .index_select(0, places)
            .view(part.shape)
            for values in pool
        ]


def _add(frames: Tensor, brighter: Tensor, above: Tensor, darker: Tensor) -> None:
    """Subtracts `darker`, down to 0, then adds `brighter`, up to `brighter + above`; in place."""
    torch.maximum(frames, darker, out=frames)
    frames -= darker
    torch.minimum(frames, above, out=frames)
    frames += brighter


def _image_axes(observation: ObservationSpec) -> tuple[int, int]:
    """Axes of height and width in a state."""
    frame = observation.frame
    rows, columns = sensor_of(observation, None).image_axes
    stack = observation.stack
    if stack is None or len(frame.shape) == len(observation.shape):
        return rows, columns
    before = stack.axis
    return rows + (rows >= before), columns + (columns >= before)
