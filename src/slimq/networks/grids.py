"""Constraints on weights during training: sparsity masks and quantization levels.

A grid projects a weight tensor onto the nearest tensor that it allows. Training keeps latent
weights and computes with their projection (straight-through estimator, Bengio et al. 2013,
arXiv:1308.3432). A network pass returns the projection itself, exactly on the grid, so that a graph
pass can encode it without loss.

Scales are rounded to the 8 significand bits of bfloat16. A scale times a code is then exact in
float32, and an encoder can recover the scale by division.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Protocol, Self

import torch
from torch import Tensor

SETTLED = 0.8
"""Share of training after which levels are frozen, so that the weights can settle on them."""
RAMP = 0.6
"""Share of training over which gradual pruning reaches its final sparsity."""
REFIT_STEP = 0.01
"""Share of training between refits of levels or masks; each costs as much as an update."""
CLIPS = torch.linspace(0.4, 1.0, 25)
"""Candidates for the largest level, as shares of the largest weight."""
LLOYD_STEPS = 50
BINS = 2048
"""Bins of the histogram from which the initial centres are drawn."""


class Grid(Protocol):
    """A constraint on one weight tensor, whose first axis is the output channel."""

    def advance(self, weight: Tensor, progress: float, /) -> None:
        """Adapts the grid to the latent weight at a training progress from 0 to 1."""
        ...

    def project(self, weight: Tensor, /) -> Tensor:
        """The nearest allowed weight, of the same shape; projection is idempotent."""
        ...

    def to(self, device: torch.device, /) -> Self:
        """A copy of the grid with its tensors on a device."""
        ...

    def scaled(self, factor: float, /) -> Self:
        """The grid of weights multiplied by a power of two."""
        ...


def project(weight: Tensor, grids: tuple[Grid, ...]) -> Tensor:
    """Projects a weight onto all grids, in order."""
    for grid in grids:
        weight = grid.project(weight)
    return weight


def cubic_sparsity(final: float, progress: float) -> float:
    """Sparsity of gradual pruning at a progress along its ramp (Zhu & Gupta 2017, equation 1)."""
    return final * (1.0 - (1.0 - min(1.0, max(0.0, progress))) ** 3)


@dataclass
class _GridBase:
    """Base of all grids."""

    def to(self, device: torch.device, /) -> Self:
        """A copy of the grid with its tensors on a device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def scaled(self, factor: float, /) -> Self:  # noqa: ARG002
        """The grid of weights multiplied by a power of two; unchanged if it has no scale."""
        return replace(self)


@dataclass
class Mask(_GridBase):
    """Unstructured sparsity: the weights with the lowest saliency are zero.

    Saliency is |w| times `sensitivity`. With `gradual`, the mask is recomputed from the latent
    weights along a cubic schedule, so that a weight that was pruned too early can recover.

    Attributes:
        sparsity: final share of zeros.
        sensitivity: factors of the weight's shape; None to rank by magnitude alone.
        gradual: whether to follow the schedule; otherwise the mask is computed once.
        keep: mask of the weights to keep, of the weight's shape; None before the first `advance`.
    """

    sparsity: float
    sensitivity: Tensor | None = None
    gradual: bool = False
    keep: Tensor | None = None
    _drawn: float = -1.0

    def advance(self, weight: Tensor, progress: float, /) -> None:
        """Computes the mask the first time, and again along the schedule."""
        done = min(1.0, progress / RAMP)
        first = self.keep is None
        due = self.gradual and self._drawn < 1.0 and done - self._drawn >= REFIT_STEP / RAMP
        if not (first or due or (self.gradual and done == 1.0 > self._drawn)):
            return
        now = cubic_sparsity(self.sparsity, done) if self.gradual else self.sparsity
        self._drawn = done if self.gradual else 1.0
        saliency = weight.detach().abs()
        if self.sensitivity is not None:
            saliency = saliency * self.sensitivity
        order = torch.argsort(saliency.flatten(), descending=True, stable=True)
        keep = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
        keep[order[: max(1, round((1.0 - now) * weight.numel()))]] = True
        self.keep = keep.view_as(weight)

    def project(self, weight: Tensor, /) -> Tensor:
        """Sets weights outside the mask to zero."""
        if self.keep is None:
            return weight
        return torch.where(self.keep, weight, torch.zeros_like(weight))


@dataclass
class LinearLevels(_GridBase):
    """Evenly spaced levels: s·q with integers |q| ≤ `highest` (Jacob et al. 2018, symmetric).

    With `fit`, the scale minimizes the squared error; otherwise the largest weight determines it.

    Attributes:
        highest: largest code: 7 for 4 bits, 127 for 8.
        per_channel: whether each output channel has its own scale; otherwise the tensor has one.
        block: consecutive inputs of a dense layer that share a scale, instead of a channel.
        fit: whether scales minimize the squared error, so that large weights may be clipped.
        scale: `(rows, 1)`, a row per scale; None before the first `advance`.
    """

    highest: int
    per_channel: bool = True
    block: int | None = None
    fit: bool = True
    scale: Tensor | None = None
    _fitted: float = -1.0

    def advance(self, weight: Tensor, progress: float, /) -> None:
        """Refits the scales until they are frozen."""
        if self.scale is not None and not _due(self._fitted, progress):
            return
        self._fitted = progress
        rows = self._rows(weight.detach())
        largest = rows.abs().amax(dim=1, keepdim=True).clamp_min(1e-8)
        best = _short(largest / self.highest)
        if self.fit:
            least = (rows - self._on_levels(rows, best)).square().sum(dim=1, keepdim=True)
            for clip in CLIPS.tolist()[:-1]:
                scale = _short(largest * clip / self.highest)
                error = (rows - self._on_levels(rows, scale)).square().sum(dim=1, keepdim=True)
                best = torch.where(error < least, scale, best)
                least = torch.minimum(error, least)
        self.scale = best

    def project(self, weight: Tensor, /) -> Tensor:
        """Moves each weight to the nearest level."""
        if self.scale is None:
            return weight
        rows = self._on_levels(self._rows(weight), self.scale)
        if self.block is not None:
            return rows.view(len(weight), -1)[:, : weight.shape[1]]
        return rows.view_as(weight)

    def scaled(self, factor: float, /) -> Self:
        """The grid of weights multiplied by a power of two."""
        return replace(self, scale=None if self.scale is None else self.scale * factor)

    def _on_levels(self, rows: Tensor, scale: Tensor) -> Tensor:
        return (rows / scale).round().clamp(-self.highest, self.highest) * scale

    def _rows(self, weight: Tensor) -> Tensor:
        """One row per scale; an incomplete last block is zero-padded."""
        if self.block is not None:
            padding = -weight.shape[1] % self.block
            return torch.nn.functional.pad(weight, (0, padding)).reshape(-1, self.block)
        return weight.flatten(1) if self.per_channel else weight.reshape(1, -1)


@dataclass
class PowerOfTwoLevels(_GridBase):
    """Logarithmic levels: 0 and ±2^(e−k), k ≥ 0 (Miyashita et al. 2016, arXiv:1603.01025).

    There is one exponent e per output channel, that of the channel's largest weight.

    Attributes:
        bits: bits per code; one is the sign, and one code is zero.
        exponent: e, `(channels, 1)`; None before the first `advance`.
    """

    bits: int = 4
    exponent: Tensor | None = None
    _fitted: float = -1.0

    @property
    def magnitudes(self) -> int:
        """Number of powers of two on each side of zero."""
        return int(2 ** (self.bits - 1)) - 1

    def advance(self, weight: Tensor, progress: float, /) -> None:
        """Refits the exponents until they are frozen."""
        if self.exponent is not None and not _due(self._fitted, progress):
            return
        self._fitted = progress
        largest = weight.detach().flatten(1).abs().amax(dim=1, keepdim=True).clamp_min(1e-8)
        # The power of two nearest to the largest weight: 1.5·2^k is halfway to the next one.
        self.exponent = torch.floor(torch.log2(largest * (4.0 / 3.0)))

    def project(self, weight: Tensor, /) -> Tensor:
        """Moves each weight to the nearest level."""
        if self.exponent is None:
            return weight
        rows = weight.flatten(1)
        magnitude = rows.abs().clamp_min(1e-30)
        power = torch.floor(torch.log2(magnitude * (4.0 / 3.0)))
        power = torch.minimum(power, self.exponent)
        lowest = self.exponent - (self.magnitudes - 1)
        value = torch.exp2(torch.maximum(power, lowest)) * torch.sign(rows)
        small = magnitude < torch.exp2(lowest - 1)
        return torch.where(small, torch.zeros_like(rows), value).view_as(weight)

    def scaled(self, factor: float, /) -> Self:
        """The grid of weights multiplied by a power of two."""
        shift = math.log2(factor)
        return replace(self, exponent=None if self.exponent is None else self.exponent + shift)


@dataclass
class Codebook(_GridBase):
    """Shared weights: the centres of a k-means clustering (Han et al. 2016, arXiv:1510.00149 §3).

    Initial centres follow the least-squares density for many levels, the cube root of the weights'
    density (Panter & Dite 1951): weights have long tails, and of centres spaced evenly over the
    range, many would stay empty. Lloyd iterations then track the latent weights.

    Attributes:
        bits: bits per code.
        sparse: whether zeros stay zero, for use with a mask; one code is reserved for them.
        centres: the centres, ascending; None before the first `advance`.
    """

    bits: int
    sparse: bool = False
    centres: Tensor | None = None
    _fitted: float = -1.0

    def advance(self, weight: Tensor, progress: float, /) -> None:
        """Moves the centres until they are frozen."""
        if self.centres is not None and not _due(self._fitted, progress):
            return
        values = weight.detach().flatten()
        if self.sparse:
            values = values[values != 0]
        if not len(values):
            return
        first = self.centres is None
        centres = self.centres
        if centres is None:
            centres = _companded(values, 2**self.bits - int(self.sparse))
        for _ in range(LLOYD_STEPS if first else 2):
            codes = _nearest(values, centres)
            count = torch.bincount(codes, minlength=len(centres))
            total = torch.zeros_like(centres).index_add_(0, codes, values)
            centres = torch.where(count > 0, total / count.clamp_min(1), centres).sort().values
        self._fitted, self.centres = progress, centres

    def project(self, weight: Tensor, /) -> Tensor:
        """Moves each weight to the nearest centre."""
        if self.centres is None:
            return weight
        if not self.sparse:
            return self.centres[_nearest(weight.flatten(), self.centres)].view_as(weight)
        kept = weight != 0  # usually few, so only they are looked up
        projected = torch.zeros_like(weight)
        projected[kept] = self.centres[_nearest(weight[kept], self.centres)]
        return projected

    def scaled(self, factor: float, /) -> Self:
        """The grid of weights multiplied by a power of two."""
        return replace(self, centres=None if self.centres is None else self.centres * factor)


def _due(fitted: float, progress: float) -> bool:
    return progress < SETTLED and progress - fitted >= REFIT_STEP


def _short(scale: Tensor) -> Tensor:
    return scale.to(torch.bfloat16).float()


def _companded(values: Tensor, count: int) -> Tensor:
    """Ascending centres whose density is the cube root of the values' density."""
    low, high = float(values.min()), float(values.max())
    density = torch.histc(values.float().cpu(), BINS, low, high).double().pow(1.0 / 3.0)
    mass = (density.cumsum(0) - density / 2) / density.sum()
    wanted = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    places = torch.searchsorted(mass, wanted).clamp(max=BINS - 1)
    return (low + (places + 0.5) / BINS * (high - low)).to(values)


def _nearest(values: Tensor, centres: Tensor) -> Tensor:
    """Index of the nearest centre for each value; centres are ascending."""
    return torch.bucketize(values, (centres[1:] + centres[:-1]) / 2)
