"""Unstructured pruning: single weights become zero and stay zero through later fine-tuning.

The importance of a weight is its magnitude (Han et al. 2015, 1506.02626), its magnitude times the
sensitivity of the output (first-order Taylor, Molchanov et al. 2017, 1611.06440), or the
second-order criterion of Optimal Brain Damage (LeCun et al. 1990); see
`slimq_compression.network.importance`. With `gradual` the mask follows the cubic schedule of Zhu &
Gupta 2017 (1710.01878) during the following fine-tuning, and weights that were pruned too early can
recover.

It saves bytes if the weights are stored sparsely (`store_weights`), but no time, since there are no
sparse kernels. After one-shot pruning beyond some 70 %, the policy collapses without fine-tuning.
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
from slimq_compression.network.layers import layer_roles
from slimq_compression.network.straight_through import attach_grids
from slimq_compression.roles import chosen_layers


class Scope(StrEnum):
    """Scope of the ranking."""

    GLOBAL = "global"
    LAYER = "layer"


class Params(BaseModel):
    """Sparsity, criterion and schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sparsity: float = Field(
        default=0.9, gt=0.0, lt=1.0, description="share of zeros over all pruned layers"
    )
    importance: WeightImportance = Field(
        default=WeightImportance.MAGNITUDE, description="criterion by which weights are ranked"
    )
    scope: Scope = Field(
        default=Scope.GLOBAL,
        description="global: one ranking over all layers; layer: equal sparsity in each",
    )
    gradual: bool = Field(
        default=False, description="reach the sparsity during the following fine-tuning"
    )
    exclude: tuple[str, ...] = Field(
        default=(),
        description="layers left dense, by name or role (first, convolutions, dense, head)",
    )
    states: int = Field(
        default=256, ge=1, le=10_000, description="maximum calibration states for sensitivities"
    )


def apply(network: QNetwork, params: Params, context: PassContext) -> QNetwork:
    """Copies the network with masks on its weights; biases are not pruned.

    With `gradual` the masks start open, and the following fine-tuning closes them.

    Raises:
        InvalidInputError: `exclude` names an unknown layer, only roles without layers, or all
            layers; or a layer is already pruned or quantized.
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
        attach_grids(pruned, name, (Mask(sparsity, sensitivity, params.gradual),))
    return pruned


def _sparsities(saliencies: dict[str, Tensor], params: Params) -> dict[str, float]:
    """Sparsity of each layer; at least one weight per layer is kept."""
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
    roles = layer_roles(network)
    excluded = chosen_layers(params.exclude, roles, "prune_weights.exclude")
    left = [name for name in roles if name not in excluded]
    if not left:
        expected = f"some of {', '.join(roles)}, but not all"
        raise InvalidInputError("prune_weights.exclude", expected, "all")
    on_grids = [name for name in left if name in network.grids]
    if on_grids:
        expected = f"every layer already pruned or quantized ({', '.join(on_grids)})"
        received = ", ".join(params.exclude) or "none"
        raise InvalidInputError("prune_weights.exclude", expected, received)
    return left
