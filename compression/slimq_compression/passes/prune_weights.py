"""Unstructured pruning: single weights become zero and stay so through later fine-tuning.

Importance of a weight is its magnitude (Han et al. 2015, 1506.02626), its magnitude times the
sensitivity of the output (first-order Taylor, Molchanov et al. 2017, 1611.06440), or the second
order of Optimal Brain Damage (LeCun et al. 1990); see `slimq_compression.network.importance`. With
`gradual` the mask follows the cubic schedule of Zhu & Gupta 2017 (1710.01878) over the fine-tuning
that comes next, and weights that were pruned too early can come back.

It saves bytes once the zeros are stored sparsely (`store_weights`); there are no sparse kernels, so
it saves no time. One-shot pruning beyond some 70 % collapses without fine-tuning.
"""

from __future__ import annotations

import copy
from enum import StrEnum

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from slimq.core.errors import InvalidInputError
from slimq.networks.grids import Mask
from slimq.networks.qnetwork import QNetwork, named_layers
from slimq_compression.context import PassContext
from slimq_compression.network.importance import WeightImportance, weight_sensitivities
from slimq_compression.network.straight_through import hold


class Scope(StrEnum):
    """What is ranked together."""

    GLOBAL = "global"
    LAYER = "layer"


class Params(BaseModel):
    """How much, by what, and when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sparsity: float = Field(
        default=0.9, gt=0.0, lt=1.0, description="share of zeros in the pruned layers together"
    )
    importance: WeightImportance = Field(
        default=WeightImportance.MAGNITUDE, description="by what weights are ranked"
    )
    scope: Scope = Field(
        default=Scope.GLOBAL,
        description="global: all layers ranked together; layer: the same share in each",
    )
    gradual: bool = Field(
        default=False, description="reach the sparsity over the fine-tuning that comes next"
    )
    exclude: tuple[str, ...] = Field(default=(), description="layers left dense, such as head")
    states: int = Field(
        default=256, ge=1, le=10_000, description="calibration states that sensitivities come from"
    )


def apply(network: QNetwork, params: Params, context: PassContext) -> QNetwork:
    """The same network with masks on its weights; biases stay.

    With `gradual` the masks are still open: the fine-tuning that comes next closes them.

    Raises:
        InvalidInputError: `exclude` names a layer that is not there, or none is left, or a layer is
            pruned or quantized already.
    """
    pruned = copy.deepcopy(network)
    layers = _chosen(pruned, params)
    sensitivities = weight_sensitivities(pruned, params.importance, params.states, context)
    saliencies = {
        name: named_layers(pruned)[name].weight.detach().abs() * sensitivities[name]
        for name in layers
    }
    magnitude = params.importance is WeightImportance.MAGNITUDE
    for name, sparsity in _sparsities(saliencies, params).items():
        sensitivity = None if magnitude else sensitivities[name]
        hold(pruned, name, (Mask(sparsity, sensitivity, params.gradual),))
    return pruned


def _sparsities(saliencies: dict[str, Tensor], params: Params) -> dict[str, float]:
    """The share of each layer's weights that goes; at least one weight of each stays."""
    if params.scope is Scope.LAYER:
        return dict.fromkeys(saliencies, params.sparsity)
    everything = torch.cat([saliency.flatten() for saliency in saliencies.values()])
    count = max(1, round((1.0 - params.sparsity) * len(everything)))
    threshold = torch.topk(everything, count, sorted=True).values[-1]
    return {
        name: 1.0 - max(1, int((saliency >= threshold).sum())) / saliency.numel()
        for name, saliency in saliencies.items()
    }


def _chosen(network: QNetwork, params: Params) -> list[str]:
    layers = named_layers(network)
    unknown = [name for name in params.exclude if name not in layers]
    left = [name for name in layers if name not in params.exclude]
    if unknown or not left:
        expected = f"layers of {', '.join(layers)}, and not all of them"
        received = unknown[0] if unknown else "all of them"
        raise InvalidInputError("prune_weights.exclude", expected, received)
    held = [name for name in left if name in network.grids]
    if held:
        expected = "layers that are neither pruned nor quantized before; name the others here"
        raise InvalidInputError("prune_weights.exclude", expected, held[0])
    return left
