"""Structured pruning: whole channels and neurons are removed, not masked.

The units of a convolution or hidden dense layer are ranked by an importance, as defined in
`network.importance`: the norm of their incoming weights (Li et al. 2017, "Pruning Filters
for Efficient ConvNets", 1608.08710; L2 after He et al. 2018, 1808.06866), their effect on the best
action's value (`taylor`, Molchanov et al. 2017, 1611.06440), the curvature of the output (`obd`,
LeCun et al. 1990), or the scale of their batch normalization (`bn-scale`, network slimming, Liu et
al. 2017, 1708.06519). With a unit, its bias, its normalization and its slice of the next layer's
input are removed; across the flatten, a channel is a block of height × width inputs of the first
dense layer. Remaining weights are bit for bit the parent's, without its grids and ranges.

It saves bytes and time without special kernels. Norms cost nothing, gradients take seconds. It
fails if the importance says little about a unit's use: the network does not play well until it is
fine-tuned. Groups, shuffles and residual blocks couple units of several layers and are refused.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from torch import Tensor, nn

from slimq.core.errors import InvalidInputError
from slimq.networks.layers import DenseLayer
from slimq.networks.qnetwork import QNetwork, derive
from slimq.networks.specification import ConvSpec, QNetworkSpec
from slimq_compression.context import PassContext
from slimq_compression.network.importance import Importance, unit_scores
from slimq_compression.network.layers import layer_roles
from slimq_compression.network.units import UnitLayer, unit_layers
from slimq_compression.roles import Table, form_of, values_by_layer

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Shares = Annotated[tuple[Share, ...], Field(min_length=1, max_length=32)]


class Params(BaseModel):
    """Exactly one of `keep` and `ratio`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    importance: Importance = Field(
        default=Importance.L1,
        description="l1, l2: norm of a unit's incoming weights; taylor, obd: from gradients on "
        "calibration states; bn-scale: scale of batch normalization; random: control",
    )
    keep: (
        Annotated[
            Annotated[Share, Tag("number")]
            | Annotated[Shares, Tag("list")]
            | Annotated[Table[Share], Tag("table")],
            Discriminator(form_of),
        ]
        | None
    ) = Field(
        default=None,
        description="share of units to keep: of every layer, by role (first, convolutions, dense), "
        "layer name or `default`, or for each convolution and hidden dense layer in order",
    )
    ratio: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        description="share of all units to keep, ranked over all layers by importance relative to "
        "their layer's mean, or to its L2 norm for taylor and obd",
    )
    multiple_of: int = Field(
        default=1,
        ge=1,
        le=64,
        description="round widths up to a multiple, to fill kernel blocks",
    )

    states: int = Field(
        default=256, ge=1, le=100_000, description="maximum calibration states for gradients"
    )

    @model_validator(mode="after")
    def _check(self) -> Params:
        if (self.keep is None) == (self.ratio is None):
            raise ValueError("give exactly one of keep and ratio")
        if isinstance(self.keep, Mapping) and "head" in self.keep:
            raise ValueError("keep: the head has one unit per action, which cannot be removed")
        return self


def apply(network: QNetwork, params: Params, context: PassContext) -> QNetwork:
    """Makes a smaller network whose weights are slices of the given one's.

    Raises:
        InvalidInputError: the network has groups, shuffles or residual blocks, `keep` does not have
            a share for each prunable layer, or `bn-scale` is used without batch normalization.
    """
    layers = unit_layers(network, "prune_channels")
    shares = None if params.keep is None else _shares(network, layers, params.keep)
    scores = unit_scores(network, params.importance, params.states, context)
    if shares is not None:
        widths = [share * len(score) for share, score in zip(shares, scores, strict=True)]
    else:
        widths = _widths(layers, scores, params)
    kept = [
        _best(score, _rounded(width, params.multiple_of, len(score)))
        for score, width in zip(scores, widths, strict=True)
    ]
    return keep_units(network, kept)


def keep_units(network: QNetwork, kept: list[Tensor]) -> QNetwork:
    """Makes a network with only these units, without grids or ranges.

    Args:
        network: the network; not modified.
        kept: for each convolution and hidden dense layer in order, the indices of the units to
            keep, ascending.

    Raises:
        InvalidInputError: the network has groups, shuffles or residual blocks.
    """
    given = unit_layers(network, "prune_channels")
    smaller = derive(network, _narrowed(network.spec, [len(indices) for indices in kept]))
    taken = unit_layers(smaller, "prune_channels")
    inputs: Tensor | None = None
    before: nn.Module | None = None
    with torch.no_grad():
        for old, new, outputs in zip(given, taken, kept, strict=True):
            if inputs is not None:
                inputs = _spread(inputs, before, old.layer)
            _copy_slice(old.layer, new.layer, outputs, inputs)
            if old.norm is not None and new.norm is not None:
                _copy_normalization(old.norm, new.norm, outputs)
            inputs, before = outputs, old.layer
        everything = torch.arange(network.spec.actions)
        if inputs is not None:
            inputs = _spread(inputs, before, network.head)
        _copy_slice(network.head, smaller.head, everything, inputs)
    return smaller.train(network.training)


def _shares(
    network: QNetwork, layers: list[UnitLayer], keep: float | Sequence[float] | Mapping[str, float]
) -> list[float]:
    """The share of units to keep in each layer."""
    if isinstance(keep, Mapping):
        roles = layer_roles(network)
        own = {unit.name: roles[unit.name] for unit in layers}
        found = values_by_layer(keep, own, "prune_channels.keep", "prunable layers")
        return [found[unit.name] for unit in layers]
    shares = list(keep) if isinstance(keep, Sequence) else [keep] * len(layers)
    if len(shares) != len(layers):
        expected = f"{len(layers)} shares, one per convolution and hidden dense layer"
        raise InvalidInputError("prune_channels.keep", expected, str(len(shares)))
    return shares


def _copy_slice(old: nn.Module, new: nn.Module, outputs: Tensor, inputs: Tensor | None) -> None:
    state = old.state_dict()
    weight = state["weight"][outputs]
    if inputs is not None:
        weight = weight[:, inputs]
    new.load_state_dict({"weight": weight, "bias": state["bias"][outputs]})


def _copy_normalization(old: nn.BatchNorm2d, new: nn.BatchNorm2d, kept: Tensor) -> None:
    """Copies scales, shifts and running statistics; the batch counter is a scalar."""
    new.load_state_dict(
        {name: value[kept] if value.dim() else value for name, value in old.state_dict().items()}
    )


def _widths(layers: list[UnitLayer], scores: list[Tensor], params: Params) -> list[float]:
    """Number of units per layer among the best of the network."""
    ratio = params.ratio or 1.0
    if params.importance is not Importance.BN_SCALE:
        by_gradients = params.importance in (Importance.TAYLOR, Importance.OBD)
        return _global_widths([_relative(score, l2=by_gradients) for score in scores], ratio)
    # Batch normalization puts all channels on one scale, so they are ranked without rescaling (Liu
    # et al. 2017). Dense layers are not comparable with them, so each keeps its share.
    channels = [
        score for layer, score in zip(layers, scores, strict=True) if layer.norm is not None
    ]
    widths = iter(_global_widths(channels, ratio))
    return [
        ratio * len(score) if layer.norm is None else next(widths)
        for layer, score in zip(layers, scores, strict=True)
    ]


def _relative(score: Tensor, *, l2: bool) -> Tensor:
    """Scales scores to be comparable across layers (l2: Molchanov et al. 2017, §2.2)."""
    size = torch.linalg.vector_norm(score) if l2 else score.mean()
    return score / size.clamp_min(1e-12)


def _global_widths(scores: list[Tensor], ratio: float) -> list[float]:
    everything = torch.cat(scores)
    count = max(1, round(ratio * len(everything)))
    threshold = torch.sort(everything, descending=True).values[count - 1]
    return [float((score >= threshold).sum()) for score in scores]


def _rounded(width: float, multiple: int, maximum: int) -> int:
    # Rounds to nearest, so that 0.7 of 10 units is 7 even if the product is 6.999….
    units = max(1, math.floor(width + 0.5))
    return min(maximum, math.ceil(units / multiple) * multiple)


def _best(score: Tensor, count: int) -> Tensor:
    """Indices of the highest scores, ascending; among equal scores the first units are kept."""
    order = torch.sort(score, descending=True, stable=True).indices
    return torch.sort(order[:count]).values


def _spread(kept: Tensor, before: nn.Module | None, layer: nn.Module) -> Tensor:
    """Inputs of `layer` that come from the kept units of the previous layer."""
    if not (isinstance(before, nn.Conv2d) and isinstance(layer, nn.Linear)):
        return kept
    area = layer.in_features // before.out_channels
    return (kept[:, None] * area + torch.arange(area)[None]).flatten()


def _narrowed(spec: QNetworkSpec, widths: list[int]) -> QNetworkSpec:
    """The specification with new widths."""
    body = copy.copy(spec.body)
    count = len(body.convolutions) if isinstance(body, ConvSpec) else 0
    update: dict[str, object] = {
        "hidden": tuple(
            layer.model_copy(update={"width": width}) if isinstance(layer, DenseLayer) else width
            for layer, width in zip(body.hidden, widths[count:], strict=True)
        )
    }
    if isinstance(body, ConvSpec):
        update["convolutions"] = tuple(
            layer.model_copy(update={"channels": width})
            for layer, width in zip(body.convolutions, widths[:count], strict=True)
        )
    return spec.model_copy(update={"body": body.model_copy(update=update)})
