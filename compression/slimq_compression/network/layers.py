"""Roles of a network's layers; the exported graph's layers have the same."""

from __future__ import annotations

from torch import nn

from slimq.networks.inputs import Branches
from slimq.networks.qnetwork import QNetwork, WeightedLayer, named_layers
from slimq_compression.roles import Role, roles_of


def layer_roles(network: QNetwork) -> dict[str, tuple[Role, ...]]:
    """The roles of each layer by name, in order of computation."""
    first = {id(layer) for layer in _first_layers(network)}
    heads = {id(_weighted(stream)[-1]) for stream in _streams(network)}
    return {
        name: roles_of(
            "convolutions" if isinstance(layer, nn.Conv2d) else "dense",
            first=id(layer) in first,
            head=id(layer) in heads,
        )
        for name, layer in named_layers(network).items()
    }


def _first_layers(network: QNetwork) -> list[WeightedLayer]:
    """The layers that read the observation: one, or one per branch or stream."""
    for stage in network.features:
        parts = stage.branches if isinstance(stage, Branches) else [stage]
        found = [layers[0] for part in parts if (layers := _weighted(part))]
        if found:
            return found
    return [_weighted(stream)[0] for stream in _streams(network)]


def _streams(network: QNetwork) -> list[nn.Module]:
    head = network.head
    if isinstance(head, nn.Linear):
        return [head]
    return [stream for stream in (head.value, head.advantage) if stream is not None]


def _weighted(module: nn.Module) -> list[WeightedLayer]:
    return [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
