"""The Q-network: observations in, one Q-value per action out.

Integer frames are scaled by 1/255 inside the network, so that every user of it feeds the same bytes
as the environment gives (Mnih et al. 2015, Methods: the networks of Extended Data Table 1).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from slimq.networks.specification import ConvSpec, QNetworkSpec


class QNetwork(nn.Module):
    """Q(s, ·; θ).

    `features` holds everything up to the last hidden activation, `head` the last dense layer.
    """

    def __init__(self, spec: QNetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.features, width = _features(spec)
        self.head = nn.Linear(width, spec.actions)

    def forward(self, observation: Tensor) -> Tensor:
        """Q-values `(batch, actions)` of observations `(batch, *shape)`."""
        hidden = self.features(self.scale(observation))
        q_values: Tensor = self.head(hidden)
        return q_values

    def scale(self, observation: Tensor) -> Tensor:
        """Frames to [0, 1]; float observations as they are."""
        if self.spec.observation_dtype == "uint8":
            return observation.float() * (1.0 / 255.0)
        return observation


class MixedPrecision(nn.Module):
    """The same network with `features` in bfloat16 and the head in float32.

    Q-values of neighbouring actions differ by less than the 8 bits of a bfloat16 mantissa, so the
    last layer, which takes 0.03 % of the arithmetic, stays exact.
    """

    def __init__(self, network: QNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, observation: Tensor) -> Tensor:
        """Q-values `(batch, actions)`, float32, of observations `(batch, *shape)`."""
        scaled = observation.to(torch.bfloat16)
        if self.network.spec.observation_dtype == "uint8":
            scaled = scaled * (1.0 / 255.0)
        if scaled.dim() == 4:
            scaled = scaled.contiguous(memory_format=torch.channels_last)
        with torch.autocast(observation.device.type, dtype=torch.bfloat16):
            hidden = self.network.features(scaled)
        q_values: Tensor = self.network.head(hidden.float())
        return q_values


def arrange(network: QNetwork) -> QNetwork:
    """The same network with its convolutions' weights channels-last, as CPUs and GPUs like them."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def count_parameters(network: nn.Module) -> int:
    """Weights and biases."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(spec: QNetworkSpec) -> int:
    """Multiply-accumulates of one observation's forward pass, biases and activations left out."""
    macs = 0
    dense: list[int] = [spec.observation_shape[0]]
    if isinstance(spec.body, ConvSpec):
        channels, height, width = spec.observation_shape
        for layer in spec.body.convolutions:
            height = (height - layer.kernel) // layer.stride + 1
            width = (width - layer.kernel) // layer.stride + 1
            macs += height * width * layer.channels * channels * layer.kernel**2
            channels = layer.channels
        dense = [channels * height * width]
    dense += [*spec.body.hidden, spec.actions]
    return macs + sum(a * b for a, b in itertools.pairwise(dense))


def _features(spec: QNetworkSpec) -> tuple[nn.Sequential, int]:
    layers: list[nn.Module] = []
    width = spec.observation_shape[0]
    if isinstance(spec.body, ConvSpec):
        channels, height, columns = spec.observation_shape
        for layer in spec.body.convolutions:
            layers += [nn.Conv2d(channels, layer.channels, layer.kernel, layer.stride), nn.ReLU()]
            channels = layer.channels
            height = (height - layer.kernel) // layer.stride + 1
            columns = (columns - layer.kernel) // layer.stride + 1
        layers.append(nn.Flatten())
        width = channels * height * columns
    for hidden in spec.body.hidden:
        layers += [nn.Linear(width, hidden), nn.ReLU()]
        width = hidden
    return nn.Sequential(*layers), width
