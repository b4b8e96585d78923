"""Bias correction of networks: compensates the mean output error of rounded weights.

Nagel et al. 2019 (1906.04721, §4.2): rounding weights by ΔW shifts the mean of an output by
ΔW·E[x], most of all in the first layer, whose inputs are not centred. Here E is the mean over
states. Layers are corrected in order, each after all earlier ones. `quantization.bias_correction`
does the same to graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slimq.core.observation import Observations
from slimq.networks.qnetwork import QNetwork, WeightedLayer, named_layers
from slimq_compression.network.gradients import recording

BATCH = 64


def match_means(network: QNetwork, reference: QNetwork, states: Observations) -> None:
    """Shifts the biases of `network` to the mean outputs of `reference`, in place.

    Args:
        network: the network with rounded weights.
        reference: the network before rounding, of the same specification.
        states: `(states, *shape)`, from real play.
    """
    wanted = named_layers(reference)
    for name, layer in named_layers(network).items():
        if layer.bias is not None:
            error = _mean_output(reference, wanted[name], states) - _mean_output(
                network, layer, states
            )
            with torch.no_grad():
                layer.bias += error


def _mean_output(network: QNetwork, layer: WeightedLayer, states: Observations) -> Tensor:
    """Mean over states and positions of each output channel of a layer."""
    total = torch.zeros(len(layer.weight), dtype=torch.float64)
    with torch.no_grad(), recording([layer]) as recorded:
        for start in range(0, len(states), BATCH):
            network(torch.from_numpy(states[start : start + BATCH]))
            outputs = recorded[layer][1].double()
            total += (
                outputs.flatten(2).mean(dim=2).sum(dim=0) if outputs.dim() > 2 else outputs.sum(0)
            )
    return (total / len(states)).float()
