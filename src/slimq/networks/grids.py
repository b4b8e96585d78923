"""What weights are held to while a network is trained: masks, and levels that codes can stand for.

A grid projects a weight tensor onto the nearest one that it allows. Training keeps a latent
weight and computes with its projection (straight-through estimator, Bengio et al. 2013,
arXiv:1308.3432); what a network pass leaves behind is the projection itself, exactly on the grid,
so that a graph pass encodes it without loss.

Scales are rounded to the 8 mantissa bits of bfloat16. A scale times a code is then exact in
float32, and an encoder finds the scale again by a division.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Protocol, Self

import torch
from torch import Tensor

SETTLED = 0.8
"""Share of a training after which levels no longer move, so that the weights can settle on them."""
RAMP = 0.6
"""Share of a training over which gradual pruning reaches its sparsity."""
REFIT_STEP = 0.01
"""Share of a training between two fits of levels or masks: each costs as much as an update."""
CLIPS = torch.linspace(0.4, 1.0, 25)
"""Shares of the largest weight that are tried as the largest level."""
LLOYD_STEPS = 50
BINS = 2048
"""Of the histogram that first centres are drawn from."""


class Grid(Protocol):
    """A constraint on one weight tensor, whose first axis is the output channel."""

    def advance(self, weight: Tensor, progress: float, /) -> None:
        """Follows a training: adapts to the latent weight at a progress from 0 to 1."""
        ...

    def project(self, weight: Tensor, /) -> Tensor:
        """The nearest allowed weight, of the same shape; projecting twice changes nothing."""
        ...

    def to(self, device: torch.device, /) -> Self:
        """The same grid with its tensors on a device."""
        ...


def project(weight: Tensor, grids: tuple[Grid, ...]) -> Tensor:
    """The weight under all grids, in order."""
    for grid in grids:
        weight = grid.project(weight)
    return weight


def cubic_sparsity(final: float, progress: float) -> float:
    """Sparsity of gradual pruning at a progress of its ramp (Zhu & Gupta 2017, equation 1)."""
    return final * (1.0 - (1.0 - min(1.0, max(0.0, progress))) ** 3)


@dataclass
class _Held:
    """What all grids have in common."""

    def to(self, device: torch.device, /) -> Self:
        """The same grid with its tensors on a device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


@dataclass
class Mask(_Held):
    """Unstructured sparsity: the weights of least saliency are zero.

    Saliency is |w| times `sensitivity`. With `gradual`, the mask is drawn anew from the latent
    weights along a cubic schedule, so that a weight that was pruned too early comes back.

    Attributes:
        sparsity: final share of zeros.
        sensitivity: of the shape of the weight; None where magnitude alone counts.
        gradual: whether the schedule runs; otherwise the mask is drawn once.
    """

    sparsity: float
    sensitivity: Tensor | None = None
    gradual: bool = False
    keep: Tensor | None = None
    _drawn: float = -1.0

    def advance(self, weight: Tensor, progress: float, /) -> None:
        """Draws the mask: the first time, and along the schedule."""
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
        """Zeros where the mask is not."""
        if self.keep is None:
            return weight
        return torch.where(self.keep, weight, torch.zeros_like(weight))


@dataclass
class LinearLevels(_Held):
    """Evenly spaced levels: s·q with integers |q| ≤ `highest` (Jacob et al. 2018, symmetric).

    The scale is that of least squared error where `fit`, otherwise the largest weight's.

    Attributes:
        highest: largest code: 7 for 4 bits, 127 for 8.
        per_channel: one scale for each output channel; otherwise one for the tensor.
        block: one scale for so many neighbouring inputs of a dense layer, instead of a channel.
        fit: whether large weights may be clipped.
    """

    highest: int
    per_channel: bool = True
    block: int | None = None
    fit: bool = True
    scale: Tensor | None = None
    _fitted: float = -1.0

    def advance(self, weight: Tensor, progress: float, /) -> None:
        """Fits the scales, until they are settled."""
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
        """The nearest level of each weight."""
        if self.scale is None:
            return weight
        rows = self._on_levels(self._rows(weight), self.scale)
        if self.block is not None:
            return rows.view(len(weight), -1)[:, : weight.shape[1]]
        return rows.view_as(weight)

    def _on_levels(self, rows: Tensor, scale: Tensor) -> Tensor:
        return (rows / scale).round().clamp(-self.highest, self.highest) * scale

    def _rows(self, weight: Tensor) -> Tensor:
        """One row for each scale; a last block that is not full is filled with zeros."""
        if self.block is not None:
            padding = -weight.shape[1] % self.block
            return torch.nn.functional.pad(weight, (0, padding)).reshape(-1, self.block)
        return weight.flatten(1) if self.per_channel else weight.reshape(1, -1)


@dataclass
class PowerOfTwoLevels(_Held):
    """Logarithmic levels: 0 and ±2^(e−k), k from 0 on (Miyashita et al. 2016, arXiv:1603.01025).

    One exponent e for each output channel, that of the channel's largest weight.

    Attributes:
        bits: of a code; one of them is the sign, and one code is zero.
    """

    bits: int = 4
    exponent: Tensor | None = None
    _fitted: float = -1.0

    @property
    def magnitudes(self) -> int:
        """How many powers of two there are on each side of zero."""
        return int(2 ** (self.bits - 1)) - 1

    def advance(self, weight: Tensor, progress: float, /) -> None:
        """Fits the exponents, until they are settled."""
        if self.exponent is not None and not _due(self._fitted, progress):
            return
        self._fitted = progress
        largest = weight.detach().flatten(1).abs().amax(dim=1, keepdim=True).clamp_min(1e-8)
        # The largest power that is nearer to the largest weight than the one below it: 4/3 of a
        # power of two lies between it and the next in the middle of their logarithms' levels.
        self.exponent = torch.floor(torch.log2(largest * (4.0 / 3.0)))

    def project(self, weight: Tensor, /) -> Tensor:
        """The nearest level of each weight."""
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


@dataclass
class Codebook(_Held):
    """Shared weights: the centres of a k-means clustering (Han et al. 2016, arXiv:1510.00149 §3).

    Centres start with the density that least squares wants of many levels, the cube root of the
    weights' (Panter & Dite 1951): weights have long tails, and centres that start evenly over the
    range stay empty. They follow the latent weights by Lloyd's iterations.

    Attributes:
        bits: of a code.
        sparse: whether zeros stay zeros, beside a mask; one code is theirs.
    """

    bits: int
    sparse: bool = False
    centres: Tensor | None = None
    _fitted: float = -1.0

    def advance(self, weight: Tensor, progress: float, /) -> None:
        """Moves the centres, until they are settled."""
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
        """The nearest centre of each weight."""
        if self.centres is None:
            return weight
        if not self.sparse:
            return self.centres[_nearest(weight.flatten(), self.centres)].view_as(weight)
        kept = weight != 0  # few of many: only these are looked up
        projected = torch.zeros_like(weight)
        projected[kept] = self.centres[_nearest(weight[kept], self.centres)]
        return projected


def _due(fitted: float, progress: float) -> bool:
    return progress < SETTLED and progress - fitted >= REFIT_STEP


def _short(scale: Tensor) -> Tensor:
    return scale.to(torch.bfloat16).float()


def _companded(values: Tensor, count: int) -> Tensor:
    """Centres, ascending, with the density of the cube root of the values'."""
    low, high = float(values.min()), float(values.max())
    density = torch.histc(values.float().cpu(), BINS, low, high).double().pow(1.0 / 3.0)
    mass = (density.cumsum(0) - density / 2) / density.sum()
    wanted = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    places = torch.searchsorted(mass, wanted).clamp(max=BINS - 1)
    return (low + (places + 0.5) / BINS * (high - low)).to(values)


def _nearest(values: Tensor, centres: Tensor) -> Tensor:
    """Index of the nearest of ascending centres."""
    return torch.bucketize(values, (centres[1:] + centres[:-1]) / 2)
