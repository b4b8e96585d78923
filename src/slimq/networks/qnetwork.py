"""The Q-network: observations in, one Q-value per action out.

Integer frames are scaled by 1/255 inside the network, so that callers pass the environment's bytes
unchanged (Mnih et al. 2015, Methods: the networks of Extended Data Table 1). The same holds for
normalization, for images with the channels last, and for categories, which are one-hot encoded.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from slimq.core.observation import ObservationPart, slices_of
from slimq.networks.grids import Grid
from slimq.networks.heads import ACTIVATIONS, Head, dense_modules
from slimq.networks.inputs import Branches, Crop, Flatten, Normalize, Part
from slimq.networks.layers import (
    ConvLayer,
    ResidualLayer,
    Shape,
    ShuffleLayer,
    dense_layers,
    shape_after,
)
from slimq.networks.specification import (
    Activation,
    ConvSpec,
    Encoder,
    HeadSpec,
    MLPSpec,
    MultiInputSpec,
    QNetworkSpec,
    conv_width,
    seen_shape,
)


class ChannelShuffle(nn.Module):
    """Permutes channels across groups, so that grouped convolutions mix (Zhang et al. 2018)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.channels, self.groups = channels, groups

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

    `features` is everything between the float inputs and the last hidden activation, `head` the
    rest: a dense layer, or a `Head`.

    Attributes:
        spec: the network's specification.
        normalize: the normalization of observations; None if there is none.
        grids: constraints on each layer's weights by layer name, applied in order.
        ranges: learned activation ranges by tensor name in the exported graph.
    """

    def __init__(self, spec: QNetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.normalize = (
            Normalize(spec.observation_shape, spec.normalization.clip)
            if spec.normalization
            else None
        )
        self.features = nn.Sequential(*_features(spec))
        last = spec.dense_layers[-1].width if spec.dense_layers else spec.flat_width
        self.head: nn.Linear | Head = (
            nn.Linear(last, spec.actions)
            if spec.head.is_linear
            else Head(spec.head, last, spec.actions, spec.body.activation)
        )
        self.grids: dict[str, tuple[Grid, ...]] = {}
        self.ranges: dict[str, tuple[float, float]] = {}

    def forward(self, observation: Tensor) -> Tensor:
        """Q-values `(batch, actions)` for observations `(batch, *shape)`."""
        hidden = self.features(self.prepare(observation))
        q_values: Tensor = self.head(hidden)
        return q_values

    def prepare(self, observation: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
        """The float inputs of `features` for observations `(batch, *shape)`.

        Args:
            observation: observations as the environment returns them.
            precision: dtype of the result; named parts stay float32, since no smaller type holds
                every code.
        """
        if self.spec.observation_parts is not None:
            return observation.float()
        body = self.spec.body
        if self.normalize is not None:
            observation = self.normalize(observation)
        if isinstance(body, ConvSpec):
            observation = Crop(body)(observation)
        if self.spec.observation_dtype != "float32":
            scaled = observation.to(precision) * (1.0 / self.spec.divisor)
            return scaled - self.background if self.background else scaled
        return observation.to(precision)

    @property
    def background(self) -> float:
        """The value subtracted from the scaled frames."""
        body = self.spec.body
        return body.background / self.spec.divisor if isinstance(body, ConvSpec) else 0.0


def derive(network: QNetwork, spec: QNetworkSpec) -> QNetwork:
    """An untrained network with another body or head, and the input normalization of `network`.

    Args:
        network: the network that it will replace; not modified.
        spec: specification of the new network, with the same inputs.
    """
    derived = QNetwork(spec)
    if derived.normalize is not None and network.normalize is not None:
        derived.normalize.load_state_dict(network.normalize.state_dict())
    return derived


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
        scaled = self.network.prepare(observation, torch.bfloat16)
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

    A `Head` has `value1`, …, `value` and `advantage1`, …, `advantage`, or, without dueling, only
    the latter. The exported graph, recipes and `grids` use the same names.
    """
    layers: dict[str, WeightedLayer] = {}
    for kind, name in ((nn.Conv2d, "conv"), (nn.Linear, "dense")):
        found = [m for m in network.features.modules() if isinstance(m, kind)]
        layers |= {f"{name}{index}": layer for index, layer in enumerate(found, start=1)}
    if isinstance(network.head, nn.Linear):
        return layers | {"head": network.head}
    for name, stream in (("value", network.head.value), ("advantage", network.head.advantage)):
        dense = [m for m in stream or () if isinstance(m, nn.Linear)]
        layers |= {f"{name}{index}": layer for index, layer in enumerate(dense[:-1], start=1)}
        if dense:
            layers[name] = dense[-1]
    return layers


def output_layers(network: QNetwork) -> dict[str, WeightedLayer]:
    """The layers whose outputs are Q-values or sum to them; none with a distributional head."""
    layers = named_layers(network)
    if network.spec.head.atoms is not None:
        return {}
    return {name: layers[name] for name in ("head", "value", "advantage") if name in layers}


def activation_names(network: QNetwork) -> dict[str, nn.Module]:
    """The activations in order of computation, by output tensor: `conv1.relu` and so on."""
    names = {id(layer): name for name, layer in named_layers(network).items()}
    kinds = {kind: name for name, kind in ACTIVATIONS.items()}
    found: dict[str, nn.Module] = {}
    last = ""
    for module in itertools.chain(network.features.modules(), network.head.modules()):
        last = names.get(id(module), last)
        if type(module) in kinds:
            found[f"{last}.{kinds[type(module)]}"] = module
    return found


def count_macs(spec: QNetworkSpec) -> int:
    """Multiply-accumulates of one observation's forward pass, without biases and activations."""
    body = spec.body
    macs = 0
    if isinstance(body, ConvSpec):
        macs += _convolution_macs(body, spec.seen_shape)
    for part in spec.observation_parts or ():
        encoder = body.encoders.get(part.name) if isinstance(body, MultiInputSpec) else None
        if isinstance(encoder, ConvSpec):
            shape = seen_shape(encoder, part.shape)
            macs += _convolution_macs(encoder, shape)
            macs += _dense_macs([conv_width(encoder, shape), *_widths(encoder)])
        elif encoder is not None:
            macs += _dense_macs([part.encoded_size, *_widths(encoder)])
    widths = [spec.flat_width, *(layer.width for layer in spec.dense_layers)]
    return macs + _dense_macs(widths) + _head_macs(spec.head, widths[-1], spec.actions)


def _widths(body: Encoder) -> list[int]:
    return [layer.width for layer in dense_layers(body.hidden)]


def _dense_macs(widths: list[int]) -> int:
    return sum(a * b for a, b in itertools.pairwise(widths))


def _head_macs(head: HeadSpec, width: int, actions: int) -> int:
    atoms = head.atoms.count if head.atoms else 1
    hidden = [layer.width for layer in dense_layers(head.hidden)]
    outputs = [actions * atoms, atoms] if head.dueling else [actions * atoms]
    return sum(_dense_macs([width, *hidden, count]) for count in outputs)


def _convolution_macs(body: ConvSpec, shape: Shape) -> int:
    macs = 0
    for layer in body.convolutions:
        macs += _conv_macs(layer, shape)
        shape = shape_after(layer, shape, "")
    return macs


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
    body, parts = spec.body, spec.observation_parts
    layers: list[nn.Module] = []
    if isinstance(body, ConvSpec):
        layers += _convolutions(body, spec.seen_shape)
    elif parts is not None:
        layers.append(Branches(_branches(spec)))
    elif len(spec.observation_shape) > 1:
        layers.append(Flatten(spec.flat_width))
    return layers + dense_modules(body.hidden, spec.flat_width, body.activation)


def _branches(spec: QNetworkSpec) -> list[nn.Sequential]:
    """A branch for each part: its encoding, then its encoder if it has one."""
    parts = spec.observation_parts or ()
    encoders = spec.body.encoders if isinstance(spec.body, MultiInputSpec) else {}
    made = []
    for part, place in zip(parts, slices_of(parts), strict=True):
        encoder = encoders.get(part.name)
        shaped = isinstance(encoder, ConvSpec)
        divisor = spec.divisors.get(part.name, 1.0)
        layers: list[nn.Module] = [Part(part, place.start, divisor, shaped=shaped)]
        if encoder is not None:
            layers += _encoder(encoder, part)
        made.append(nn.Sequential(*layers))
    return made


def _encoder(body: Encoder, part: ObservationPart) -> list[nn.Module]:
    if isinstance(body, MLPSpec):
        return dense_modules(body.hidden, part.encoded_size, body.activation)
    made: list[nn.Module] = [crop] if (crop := Crop(body)).changes else []
    shape = seen_shape(body, part.shape)
    made += _convolutions(body, shape)
    return made + dense_modules(body.hidden, conv_width(body, shape), body.activation)


def _convolutions(body: ConvSpec, shape: Shape) -> list[nn.Module]:
    made: list[nn.Module] = []
    for layer in body.convolutions:
        made += _convolution(layer, shape, body.activation)
        shape = shape_after(layer, shape, "")
    return [*made, Flatten(math.prod(shape))]


def _convolution(
    layer: ConvLayer | ShuffleLayer | ResidualLayer, shape: Shape, activation: Activation
) -> list[nn.Module]:
    if isinstance(layer, ShuffleLayer):
        return [ChannelShuffle(shape[0], layer.groups)]
    if isinstance(layer, ResidualLayer):
        body: list[nn.Module] = []
        for part in layer.layers:
            body += _convolution(part, shape, activation)
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
    if layer.layer_norm:
        made.append(nn.LayerNorm(shape_after(layer, shape, "")))
    if layer.activation:
        made.append(ACTIVATIONS[activation]())
    return made
