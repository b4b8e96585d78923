"""Conversion of observations to float inputs: scaling, transposition, normalization, one-hot codes.

All of it is part of the exported graph, so that callers pass the environment's observations
unchanged.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from slimq.core.observation import ObservationPart
from slimq.networks.specification import ConvSpec

EPSILON = 1e-8
"""Added to the variance, as in gymnasium's NormalizeObservation."""


class Normalize(nn.Module):
    """Normalizes to (x − mean) / sqrt(variance + ε), then clips; the statistics are buffers."""

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...], clip: float | None) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("count", torch.full((), 1e-4))

    def update(self, observations: Tensor) -> None:
        """Adds a batch `(batch, *shape)` to the statistics (Chan et al. 1979, equation 2.1)."""
        batch = observations.to(self.mean.device, torch.float64)
        size, count = len(batch), self.count.double()
        delta = batch.mean(0) - self.mean.double()
        total = count + size
        squares = self.variance.double() * count + batch.var(0, unbiased=False) * size
        squares = squares + delta.square() * count * size / total
        self.mean.copy_(self.mean.double() + delta * size / total)
        self.variance.copy_(squares / total)
        self.count.copy_(total)

    @property
    def scale(self) -> Tensor:
        """1 / sqrt(variance + ε), of the observation's shape."""
        return torch.rsqrt(self.variance + EPSILON)

    def forward(self, observation: Tensor) -> Tensor:
        """Normalizes `(batch, *shape)`."""
        normalized = (observation - self.mean) * self.scale
        return normalized if self.clip is None else normalized.clamp(-self.clip, self.clip)


class Part(nn.Module):
    """One part of flat observations as floats: one-hot codes of categories, or scaled numbers.

    Attributes:
        start: index of its first element in the flat observation.
        part: the part's layout.
        divisor: number by which numbers are divided.
        shaped: whether numbers get the part's shape, for convolutions; otherwise they stay flat.
        columns: `(codes,)`, index of each code's element in the flat observation.
        values: `(codes,)`, the value for which each code is 1.
    """

    columns: Tensor
    values: Tensor

    def __init__(
        self, part: ObservationPart, start: int, divisor: float = 1.0, *, shaped: bool = False
    ) -> None:
        super().__init__()
        self.start, self.part, self.divisor, self.shaped = start, part, divisor, shaped
        counts = np.array(part.categories or (), np.int64)
        elements = np.repeat(np.arange(len(counts)), counts)
        codes = np.arange(len(elements)) - (np.cumsum(counts) - counts)[elements]
        values = np.array(part.first, np.int64)[elements] + codes
        self.register_buffer("columns", torch.from_numpy(start + elements), persistent=False)
        self.register_buffer("values", torch.from_numpy(values).float(), persistent=False)

    def forward(self, flat: Tensor) -> Tensor:
        """Maps `(batch, size)` to `(batch, encoded_size)`, or `(batch, *part.shape)` if shaped."""
        if self.part.categories is not None:
            return (flat[:, self.columns] == self.values).to(torch.float32)
        numbers = flat[:, self.start : self.start + self.part.size]
        if self.divisor != 1.0:
            numbers = numbers * (1.0 / self.divisor)
        return numbers.reshape(-1, *self.part.shape) if self.shaped else numbers


class Branches(nn.Module):
    """Runs modules on the same flat observations and concatenates their outputs."""

    def __init__(self, branches: list[nn.Sequential]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, flat: Tensor) -> Tensor:
        """Maps `(batch, size)`, of a dtype that holds every code, to `(batch, sum of widths)`."""
        return torch.cat([branch(flat) for branch in self.branches], dim=1)


class Crop(nn.Module):
    """Moves the channels of images first and crops to a network's window."""

    def __init__(self, body: ConvSpec) -> None:
        super().__init__()
        self.body = body

    @property
    def changes(self) -> bool:
        """Whether it does anything."""
        return self.body.channels == "last" or self.body.window is not None

    def forward(self, images: Tensor) -> Tensor:
        """Converts a batch of the environment's images to `(batch, channels, height, width)`."""
        if self.body.channels == "last":
            images = images.permute(0, 3, 1, 2)
        if self.body.window is None:
            return images
        channels, height, width = images.shape[1:]
        spans = self.body.window.spans((channels, height, width))
        frames, rows, columns = (slice(*span) for span in spans)
        return images[:, frames, rows, columns]


class Flatten(nn.Flatten):
    """Flattens all axes but the batch.

    Attributes:
        width: number of elements of one row.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
