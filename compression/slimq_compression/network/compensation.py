"""Rounding with error compensation: later weights compensate for the errors of earlier ones.

GPTQ (Frantar et al. 2023, 2210.17323, algorithm 1), which is Optimal Brain Quantization (Frantar &
Alistarh 2022, 2208.11580) with a fixed order: with inputs X of a layer and H = XᵀX, the weights of
all outputs are rounded input by input, and after each the remaining ones are updated by the error
times a row of the Cholesky factor of H⁻¹, which minimizes ‖WX − ŴX‖². The levels are those of
rounding to nearest.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimq.core.observation import Observations
from slimq.networks.grids import LinearLevels
from slimq.networks.qnetwork import QNetwork, WeightedLayer
from slimq_compression.network.gradients import recording

BATCH = 32
DAMPING = 0.01
"""Share of the mean diagonal of H that is added to it, since inputs may outnumber states."""
BLOCK = 128
"""Number of inputs after which errors are propagated to all later ones."""


def round_compensated(
    network: QNetwork, layer: WeightedLayer, levels: LinearLevels, states: Observations
) -> None:
    """Rounds one layer of a network to levels, in place.

    Args:
        network: the network, whose earlier layers are already rounded.
        layer: the layer; a convolution without groups, or dense.
        levels: the levels, with scales that were fitted to its weights.
        states: `(states, *shape)`, from real play.
    """
    if levels.scale is None:
        raise ValueError("levels without scales")
    weight = layer.weight.detach().flatten(1).double()
    scale = _expand(levels, layer.weight).double()
    factor = _inverse_factor(_second_moments(network, layer, states))
    rounded = torch.zeros_like(weight)
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        errors = torch.zeros_like(weight[:, start:stop])
        for column in range(start, stop):
            codes = (weight[:, column] / scale[:, column]).round()
            rounded[:, column] = codes.clamp(-levels.highest, levels.highest) * scale[:, column]
            error = (weight[:, column] - rounded[:, column]) / factor[column, column]
            errors[:, column - start] = error
            weight[:, column + 1 : stop] -= error[:, None] * factor[column, column + 1 : stop]
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
    with torch.no_grad():
        layer.weight.copy_(levels.project(rounded.float().view_as(layer.weight)))


def _second_moments(network: QNetwork, layer: WeightedLayer, states: Observations) -> Tensor:
    """H: products of a layer's inputs, `(inputs, inputs)`, averaged over states and positions."""
    size = layer.weight[0].numel()
    moments, count = torch.zeros(size, size, dtype=torch.float64), 0
    with torch.no_grad(), recording([layer]) as recorded:
        for start in range(0, len(states), BATCH):
            network(torch.from_numpy(states[start : start + BATCH]))
            inputs = _patches(layer, recorded[layer][0])
            moments += (inputs.T @ inputs).double()
            count += len(inputs)
    return moments / max(1, count)


def _patches(layer: WeightedLayer, inputs: Tensor) -> Tensor:
    """The inputs of each output position, `(batch · positions, inputs)`."""
    if isinstance(layer, nn.Linear):
        return inputs.flatten(0, -2)
    padding = layer.padding if isinstance(layer.padding, tuple) else 0
    patches = F.unfold(inputs, layer.kernel_size, padding=padding, stride=layer.stride)
    return patches.transpose(1, 2).flatten(0, 1)


def _inverse_factor(moments: Tensor) -> Tensor:
    """The upper Cholesky factor of the damped inverse; inputs that are always 0 count as 1."""
    diagonal = moments.diagonal()
    diagonal[diagonal == 0] = 1.0
    diagonal += DAMPING * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def _expand(levels: LinearLevels, weight: Tensor) -> Tensor:
    """The scale of every weight, `(outputs, inputs)`."""
    scale = levels.scale if levels.scale is not None else torch.ones(1, 1)
    outputs, inputs = len(weight), weight[0].numel()
    if levels.block is not None:
        return scale.view(outputs, -1).repeat_interleave(levels.block, dim=1)[:, :inputs]
    return scale.expand(outputs, inputs)
