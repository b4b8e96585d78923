"""The Q-network: observations in, one Q-value per action out.

Integer frames are scaled by 1/255 inside the network, so that callers pass the environment's bytes
unchanged (Mnih et al. 2015, Methods: the networks of Extended Data Table 1).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from slimq.networks.grids import Grid
from slimq.networks.specification import (
    ConvLayer,
    ConvSpec,
    QNetworkSpec,
    ResidualLayer,
    Shape,
    ShuffleLayer,
    shape_after,
)


class ChannelShuffle(nn.Module):
    """Permutes channels across groups, so that grouped convolutions mix (Zhang et al. 2018)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, features: Tensor) -> Tensor:
        """Returns `(batch, channels, height, width)` with the channels permuted."""
        batch, channels, height, width = features.shape
        grouped = features.view(batch, self.groups, channels // self.groups, height, width)
        return grouped.transpose(1, 2).reshape(batch, channels, height, width)


class Residual(nn.Module):
    """x + f(x) (He et al. 2016), with no activation after the sum (Sandler et al. 2018)."""

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body

    def forward(self, features: Tensor) -> Tensor:
        """Adds the body's output; the shape is unchanged."""
        changed: Tensor = self.body(features)
        return features + changed


WeightedLayer = nn.Conv2d | nn.Linear


class QNetwork(nn.Module):
    """The network Q(s, ·; θ).

    `features` is everything up to the last hidden activation, `head` the last dense layer.

    Attributes:
        spec: the network's specification.
        grids: constraints on each layer's weights by layer name, applied in order.
        ranges: learned activation ranges by tensor name in the exported graph.
    """

    def __init__(self, spec: QNetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.features = nn.Sequential(*_features(spec))
        last = spec.dense_layers[-1].width if spec.dense_layers else spec.flat_width
        self.head = nn.Linear(last, spec.actions)
        self.grids: dict[str, tuple[Grid, ...]] = {}
        self.ranges: dict[str, tuple[float, float]] = {}

    def forward(self, observation: Tensor) -> Tensor:
        """Q-values `(batch, actions)` for observations `(batch, *shape)`."""
        hidden = self.features(self.scale(self.crop(observation)))
        q_values: Tensor = self.head(hidden)
        return q_values

    def crop(self, observation: Tensor) -> Tensor:
        """Crops `(batch, *shape)` observations to the network's window."""
        body = self.spec.body
        if not isinstance(body, ConvSpec) or body.window is None:
            return observation
        channels, height, width = observation.shape[1:]
        frames, rows, columns = (slice(*s) for s in body.window.spans((channels, height, width)))
        return observation[:, frames, rows, columns]

    @property
    def background(self) -> float:
        """The value subtracted from the scaled frames."""
        return self.spec.body.background / 255.0 if isinstance(self.spec.body, ConvSpec) else 0.0

    def scale(self, observation: Tensor) -> Tensor:
        """Scales frames to [0, 1] and subtracts the background; floats stay unchanged."""
        if self.spec.observation_dtype == "uint8":
            return observation.float() * (1.0 / 255.0) - self.background
        return observation


class MixedPrecision(nn.Module):
    """A network with `features` in bfloat16 and the head in float32.

    Q-values of different actions can differ by less than bfloat16's 8 significand bits resolve, so
    the last layer, 0.03 % of the arithmetic, stays in full precision.
    """

    def __init__(self, network: QNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, observation: Tensor) -> Tensor:
        """Q-values `(batch, actions)`, float32, for observations `(batch, *shape)`."""
        scaled = self.network.crop(observation).to(torch.bfloat16)
        if self.network.spec.observation_dtype == "uint8":
            scaled = scaled * (1.0 / 255.0) - self.network.background
        if scaled.dim() == 4:
            scaled = scaled.contiguous(memory_format=torch.channels_last)
        with torch.autocast(observation.device.type, dtype=torch.bfloat16):
            hidden = self.network.features(scaled)
        q_values: Tensor = self.network.head(hidden.float())
        return q_values


def arrange(network: QNetwork) -> QNetwork:
    """Makes the convolutions' weights channels-last in place, which is faster on CPUs and GPUs."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def count_parameters(network: nn.Module) -> int:
    """Number of weights and biases."""
    return sum(parameter.numel() for parameter in network.parameters())


def named_layers(network: QNetwork) -> dict[str, WeightedLayer]:
    """The layers with weights in order of computation: `conv1`, …, `dense1`, …, `head`.

    The exported graph, recipes and `grids` use the same names.
    """
    layers: dict[str, WeightedLayer] = {}
    for kind, name in ((nn.Conv2d, "conv"), (nn.Linear, "dense")):
        found = [m for m in network.features.modules() if isinstance(m, kind)]
        layers |= {f"{name}{index}": layer for index, layer in enumerate(found, start=1)}
    return layers | {"head": network.head}


def activation_names(network: QNetwork) -> dict[str, nn.ReLU]:
    """The ReLUs in order of computation, by output tensor: `conv1.relu` and so on."""
    names = {id(layer): name for name, layer in named_layers(network).items()}
    found: dict[str, nn.ReLU] = {}
    last = ""
    for module in network.features.modules():
        last = names.get(id(module), last)
        if isinstance(module, nn.ReLU):
            found[f"{last}.relu"] = module
    return found


def count_macs(spec: QNetworkSpec) -> int:
    """Multiply-accumulates of one observation's forward pass, without biases and activations."""
    macs = 0
    if isinstance(spec.body, ConvSpec):
        channels, height, width = spec.seen_shape
        for layer in spec.body.convolutions:
            macs += _conv_macs(layer, (channels, height, width))
            channels, height, width = shape_after(layer, (channels, height, width), "")
    dense = [spec.flat_width, *(layer.width for layer in spec.dense_layers), spec.actions]
    return macs + sum(a * b for a, b in itertools.pairwise(dense))


def _conv_macs(layer: ConvLayer | ShuffleLayer | ResidualLayer, shape: Shape) -> int:
    if isinstance(layer, ShuffleLayer):
        return 0
    if isinstance(layer, ResidualLayer):
        macs = 0
        for part in layer.layers:
            macs += _conv_macs(part, shape)
            shape = shape_after(part, shape, "")
        return macs
    _, height, width = shape_after(layer, shape, "")
    return height * width * layer.channels * (shape[0] // layer.groups) * layer.kernel**2


def _features(spec: QNetworkSpec) -> list[nn.Module]:
    layers: list[nn.Module] = []
    if isinstance(spec.body, ConvSpec):
        shape = spec.seen_shape
        for layer in spec.body.convolutions:
            layers += _convolution(layer, shape)
            shape = shape_after(layer, shape, "")
        layers.append(nn.Flatten())
    width = spec.flat_width
    for dense in spec.dense_layers:
        layers.append(nn.Linear(width, dense.width))
        if dense.activation:
            layers.append(nn.ReLU())
        width = dense.width
    return layers


def _convolution(layer: ConvLayer | ShuffleLayer | ResidualLayer, shape: Shape) -> list[nn.Module]:
    if isinstance(layer, ShuffleLayer):
        return [ChannelShuffle(layer.groups)]
    if isinstance(layer, ResidualLayer):
        body: list[nn.Module] = []
        for part in layer.layers:
            body += _convolution(part, shape)
            shape = shape_after(part, shape, "")
        return [Residual(nn.Sequential(*body))]
    made: list[nn.Module] = [
        nn.Conv2d(
            shape[0],
            layer.channels,
            layer.kernel,
            layer.stride,
            padding=layer.padding,
            groups=layer.groups,
        )
    ]
    if layer.batch_norm:
        made.append(nn.BatchNorm2d(layer.channels))
    if layer.activation:
        made.append(nn.ReLU())
    return made
