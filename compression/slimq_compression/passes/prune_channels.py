"""Structured pruning: whole channels and neurons are removed, not masked.

The units of a convolution or hidden dense layer are ranked by the norm of their incoming weights
(Li et al. 2017, "Pruning Filters for Efficient ConvNets", 1608.08710, L1; L2 after He et al. 2018,
1808.06866). A removed unit takes its bias with it, and its slice of the next layer's input; through
the flatten, a channel is a block of height × width inputs of the first dense layer. What is kept is
bit for bit the parent's.

Costs nothing to apply, and bytes and time fall at once, without special kernels. It fails where
norms say little about use: the network does not play well until it is fine-tuned.
"""

from __future__ import annotations

import copy
import math
from enum import StrEnum
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from slimq.core.errors import InvalidInputError
from slimq.networks.qnetwork import QNetwork
from slimq.networks.specification import ConvSpec, MLPSpec, QNetworkSpec
from slimq_compression.context import PassContext

Share = Annotated[float, Field(gt=0.0, le=1.0)]


class Importance(StrEnum):
    """By what units are ranked."""

    L1 = "l1"
    L2 = "l2"


class Params(BaseModel):
    """Exactly one of `keep` and `ratio`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    importance: Importance = Field(
        default=Importance.L1, description="norm of a unit's incoming weights"
    )
    keep: tuple[Share, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="share of units kept, for each convolution and hidden dense layer in order",
    )
    ratio: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        description="share of all units kept, ranked over all layers by importance relative to "
        "their layer's mean",
    )
    multiple_of: int = Field(
        default=1, ge=1, le=64, description="round widths up to a multiple, for the kernels' blocks"
    )

    @model_validator(mode="after")
    def _check(self) -> Params:
        if (self.keep is None) == (self.ratio is None):
            raise ValueError("give exactly one of keep and ratio")
        return self


def apply(network: QNetwork, params: Params, context: PassContext) -> QNetwork:  # noqa: ARG001
    """A smaller network whose weights are slices of the given one's.

    Raises:
        InvalidInputError: `keep` does not have one share for each prunable layer.
    """
    layers = _prunable(network)
    scores = [_score(layer, params.importance) for layer in layers]
    if params.keep is not None and len(params.keep) != len(layers):
        expected = f"{len(layers)} shares, one for each convolution and hidden dense layer"
        raise InvalidInputError("prune_channels.keep", expected, str(len(params.keep)))
    if params.keep is not None:
        widths = [share * len(score) for share, score in zip(params.keep, scores, strict=True)]
    else:
        widths = _global_widths(scores, params.ratio or 1.0)
    kept = [
        _best(score, _rounded(width, params.multiple_of, len(score)))
        for score, width in zip(scores, widths, strict=True)
    ]
    return keep_units(network, kept)


def keep_units(network: QNetwork, kept: list[Tensor]) -> QNetwork:
    """The network with only these units.

    Args:
        network: left as it is.
        kept: for each convolution and hidden dense layer in order, the indices of the units to
            keep, ascending.
    """
    smaller = QNetwork(_narrowed(network.spec, [len(indices) for indices in kept]))
    given = [*_prunable(network), network.head]
    taken = [*_prunable(smaller), smaller.head]
    inputs: Tensor | None = None
    with torch.no_grad():
        for index, (old, new) in enumerate(zip(given, taken, strict=True)):
            outputs = kept[index] if index < len(kept) else torch.arange(len(old.weight))
            weight, bias = old.weight.detach()[outputs], old.bias
            if inputs is not None:
                weight = weight[:, _spread(inputs, given[index - 1], old)]
            new.weight.copy_(weight)
            if bias is not None and new.bias is not None:
                new.bias.copy_(bias.detach()[outputs])
            inputs = outputs
    return smaller.train(network.training)


def _prunable(network: QNetwork) -> list[nn.Conv2d | nn.Linear]:
    return [m for m in network.features if isinstance(m, (nn.Conv2d, nn.Linear))]


def _score(layer: nn.Conv2d | nn.Linear, importance: Importance) -> Tensor:
    order = {Importance.L1: 1, Importance.L2: 2}[importance]
    weight = layer.weight.detach().flatten(1).double()
    norms: Tensor = torch.linalg.vector_norm(weight, ord=order, dim=1)
    return norms


def _global_widths(scores: list[Tensor], ratio: float) -> list[float]:
    relative = [score / score.mean().clamp_min(1e-12) for score in scores]
    everything = torch.cat(relative)
    count = max(1, round(ratio * len(everything)))
    threshold = torch.sort(everything, descending=True).values[count - 1]
    return [float((score >= threshold).sum()) for score in relative]


def _rounded(width: float, multiple: int, most: int) -> int:
    # Half a unit of tolerance: 0.7 of 10 units is 7, whatever the floating-point product says.
    units = max(1, math.floor(width + 0.5))
    return min(most, math.ceil(units / multiple) * multiple)


def _best(score: Tensor, count: int) -> Tensor:
    """The indices of the highest scores, ascending; of equal scores the first units stay."""
    order = torch.sort(score, descending=True, stable=True).indices
    return torch.sort(order[:count]).values


def _spread(kept: Tensor, before: nn.Module, layer: nn.Module) -> Tensor:
    """The inputs of `layer` that the kept units of the layer before it feed."""
    if not (isinstance(before, nn.Conv2d) and isinstance(layer, nn.Linear)):
        return kept
    area = layer.in_features // before.out_channels
    return (kept[:, None] * area + torch.arange(area)[None]).flatten()


def _narrowed(spec: QNetworkSpec, widths: list[int]) -> QNetworkSpec:
    """The specification with other widths."""
    body: ConvSpec | MLPSpec = copy.copy(spec.body)
    if isinstance(body, ConvSpec):
        count = len(body.convolutions)
        convolutions = tuple(
            layer.model_copy(update={"channels": width})
            for layer, width in zip(body.convolutions, widths[:count], strict=True)
        )
        body = body.model_copy(
            update={"convolutions": convolutions, "hidden": tuple(widths[count:])}
        )
    else:
        body = body.model_copy(update={"hidden": tuple(widths)})
    return spec.model_copy(update={"body": body})
