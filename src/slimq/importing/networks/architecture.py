"""Networks of other programs in a neutral form, and their translation to slimq's own.

Readers give weights layer by layer, with images in the order channels, rows, columns. The
translation makes the specification for the observations at hand, permutes the columns of the first
dense layer where the environment orders its observations differently, and copies the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from slimq.core.observation import ObservationSpec
from slimq.importing.source import describe_layout, refuse
from slimq.networks.heads import Head
from slimq.networks.inputs import EPSILON
from slimq.networks.layers import ConvLayer, DenseLayer
from slimq.networks.qnetwork import QNetwork
from slimq.networks.specification import (
    Activation,
    Atoms,
    Body,
    ConvSpec,
    Encoder,
    HeadSpec,
    MLPSpec,
    MultiInputSpec,
    Normalization,
    QNetworkSpec,
)

Pair = tuple[Tensor, Tensor]
"""Weight and bias."""


@dataclass(frozen=True)
class Dense:
    """A dense layer: weight `(out, in)`, bias `(out,)`, scale and shift of its normalization."""

    weight: Tensor
    bias: Tensor
    norm: Pair | None = None
    activation: bool = True


@dataclass(frozen=True)
class Convolution:
    """A convolution: weight `(out, in / groups, k, k)`, bias `(out,)`."""

    weight: Tensor
    bias: Tensor
    stride: int = 1
    padding: int = 0
    groups: int = 1
    norm: Pair | None = None
    activation: bool = True


@dataclass(frozen=True)
class Stack:
    """Convolutions, then dense layers."""

    convolutions: tuple[Convolution, ...] = ()
    dense: tuple[Dense, ...] = ()


@dataclass(frozen=True)
class Statistics:
    """Normalization of observations: (x - mean) / sqrt(variance + epsilon), clipped."""

    mean: Tensor
    variance: Tensor
    epsilon: float
    clip: float | None


@dataclass(frozen=True)
class Architecture:
    """A Q-network.

    Attributes:
        body: from the observation, or the concatenated parts, to the last hidden activation.
        output: the last layer or, with a dueling head, the layers of the advantage.
        value: the layers of the value of a dueling head; empty for others.
        activation: the nonlinearity of all layers.
        encoders: by name of the part that they take.
        encoder_activation: their nonlinearity if it is another one.
        atoms: the distribution that Q-values are the mean of.
        divisor: integer observations are divided by it.
        divisors: the same by part.
        statistics: normalization of observations.
        image: shape of images with the channels first; None to take it from the observations.
        images: the same by part.
        parts: names of the parts in the order of the file; None for that of the observations.
    """

    body: Stack
    output: tuple[Dense, ...]
    activation: Activation
    value: tuple[Dense, ...] = ()
    encoders: Mapping[str, Stack] = field(default_factory=dict)
    encoder_activation: Activation | None = None
    atoms: Atoms | None = None
    divisor: float = 1.0
    divisors: Mapping[str, float] = field(default_factory=dict)
    statistics: Statistics | None = None
    image: tuple[int, ...] | None = None
    images: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    parts: tuple[str, ...] | None = None


def channels_last(shape: tuple[int, ...], image: tuple[int, ...] | None, channels: int) -> bool:
    """Whether images of `shape` have their channels last.

    Args:
        shape: of the observations.
        image: shape with the channels first, as the file says; None if it does not.
        channels: number of channels that the first convolution takes.
    """
    if len(shape) != 3:
        return False
    if image is not None:
        return shape != image and shape == (*image[1:], image[0])
    return shape[0] != channels and shape[2] == channels


def build(
    architecture: Architecture, observation: ObservationSpec, actions: int, file: str
) -> QNetwork:
    """Makes slimq's network for observations of a layout.

    Raises:
        InvalidInputError: the observations do not fit the network, or slimq has no such network.
    """
    prepared = _order_columns(architecture, observation, file)
    try:
        spec = _specification(prepared, observation, actions)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        received = f"observations {describe_layout(observation)}: {problem}"
        raise refuse(file, "observations that fit the network", received) from error
    network = QNetwork(spec)
    _fill(network, prepared, observation, file)
    return network.eval()


def _specification(found: Architecture, observation: ObservationSpec, actions: int) -> QNetworkSpec:
    hidden = _hidden(found.body.dense)
    dueling = bool(found.value)
    body: Body
    if found.encoders:
        parts = {part.name: part.shape for part in observation.parts or ()}
        encoders = {
            name: _encoder(
                stack,
                parts.get(name, ()),
                found.images.get(name),
                found.encoder_activation or found.activation,
            )
            for name, stack in found.encoders.items()
        }
        body = MultiInputSpec(encoders=encoders, hidden=hidden, activation=found.activation)
    else:
        body = _encoder(found.body, observation.shape, found.image, found.activation)
    numbers = observation.parts is None and observation.dtype != "float32"
    return QNetworkSpec(
        body=body,
        observation_shape=observation.shape,
        observation_dtype=observation.dtype,
        observation_parts=observation.parts,
        divisor=found.divisor if numbers else 255.0,
        divisors=dict(found.divisors),
        normalization=Normalization(clip=found.statistics.clip) if found.statistics else None,
        actions=actions,
        head=HeadSpec(
            dueling=dueling,
            hidden=_hidden(found.output[:-1]) if dueling else (),
            atoms=found.atoms,
        ),
    )


def _encoder(
    stack: Stack,
    shape: tuple[int, ...],
    image: tuple[int, ...] | None,
    activation: Activation,
) -> Encoder:
    hidden = _hidden(stack.dense)
    if not stack.convolutions:
        return MLPSpec(hidden=hidden, activation=activation)
    first = stack.convolutions[0]
    last = channels_last(shape, image, first.weight.shape[1] * first.groups)
    return ConvSpec(
        channels="last" if last else None,
        convolutions=tuple(
            ConvLayer(
                channels=layer.weight.shape[0],
                kernel=layer.weight.shape[2],
                stride=layer.stride,
                padding=layer.padding,
                groups=layer.groups,
                layer_norm=layer.norm is not None,
                activation=layer.activation,
            )
            for layer in stack.convolutions
        ),
        hidden=hidden,
        activation=activation,
    )


def _hidden(layers: tuple[Dense, ...]) -> tuple[int | DenseLayer, ...]:
    return tuple(
        layer.weight.shape[0]
        if layer.norm is None and layer.activation
        else DenseLayer(
            width=layer.weight.shape[0],
            layer_norm=layer.norm is not None,
            activation=layer.activation,
        )
        for layer in layers
    )


def _order_columns(found: Architecture, observation: ObservationSpec, file: str) -> Architecture:
    """Permutes the first dense layer's columns to the order of the observations."""
    order: Tensor | None = None
    if observation.parts is not None and found.parts is not None:
        order = _order_of_parts(found, observation, file)
    elif (
        found.image is not None
        and not found.body.convolutions
        and channels_last(observation.shape, found.image, 0)
    ):
        places = torch.arange(observation.size).reshape(found.image)
        order = places.permute(1, 2, 0).flatten()
    if order is None or torch.equal(order, torch.arange(len(order))):
        return found
    stack = found.body
    if stack.dense:
        first = replace(stack.dense[0], weight=stack.dense[0].weight[:, order])
        return replace(found, body=replace(stack, dense=(first, *stack.dense[1:])))
    ordered = [
        (replace(layers[0], weight=layers[0].weight[:, order]), *layers[1:]) if layers else ()
        for layers in (found.output, found.value)
    ]
    return replace(found, output=ordered[0], value=ordered[1])


def _order_of_parts(found: Architecture, observation: ObservationSpec, file: str) -> Tensor:
    """For each input of the common layers in the observations' order, its index in the file's."""
    widths: dict[str, int] = {}
    for part in observation.parts or ():
        encoder = found.encoders.get(part.name)
        widths[part.name] = encoder.dense[-1].weight.shape[0] if encoder else part.encoded_size
    if sorted(widths) != sorted(found.parts or ()):
        expected = f"the parts {', '.join(found.parts or ())}"
        raise refuse(file, f"observations with {expected}", ", ".join(widths))
    starts, position = {}, 0
    for name in found.parts or ():
        starts[name] = position
        position += widths[name]
    return torch.cat([torch.arange(starts[n], starts[n] + width) for n, width in widths.items()])


def _fill(network: QNetwork, found: Architecture, observation: ObservationSpec, file: str) -> None:
    """Copies the weights; modules and layers are walked in the same order."""
    parts = [part.name for part in observation.parts or ()]
    stacks = [found.encoders[name] for name in parts if name in found.encoders]
    layers: list[Dense | Convolution] = []
    for stack in (*stacks, found.body):
        layers += [*stack.convolutions, *stack.dense]
    pairs = [pair for layer in layers for pair in _pairs(layer)]
    _copy(network.features, pairs, file)
    output = [pair for layer in found.output for pair in _pairs(layer)]
    if isinstance(network.head, Head):
        _copy(network.head.advantage, output, file)
        if network.head.value is not None:
            _copy(network.head.value, [p for layer in found.value for p in _pairs(layer)], file)
    else:
        _copy(network.head, output, file)
    if found.statistics is not None and network.normalize is not None:
        shape = network.normalize.mean.shape
        if found.statistics.mean.shape != shape:
            received = f"statistics {tuple(found.statistics.mean.shape)}"
            raise refuse(file, f"statistics of observations {tuple(shape)}", received)
        network.normalize.mean.copy_(found.statistics.mean)
        variance = found.statistics.variance.double() + (found.statistics.epsilon - EPSILON)
        network.normalize.variance.copy_(variance)


def _pairs(layer: Dense | Convolution) -> Iterator[Pair]:
    yield layer.weight, layer.bias
    if layer.norm is not None:
        yield layer.norm


def _copy(module: nn.Module, pairs: list[Pair], file: str) -> None:
    targets = [
        inner
        for inner in module.modules()
        if isinstance(inner, nn.Conv2d | nn.Linear | nn.LayerNorm)
    ]
    if len(targets) != len(pairs):
        raise refuse(file, f"{len(targets)} layers with weights", f"{len(pairs)}")
    with torch.no_grad():
        for target, (weight, bias) in zip(targets, pairs, strict=True):
            if target.weight.shape != weight.shape:
                expected = f"weights {tuple(target.weight.shape)} for these observations"
                raise refuse(file, expected, str(tuple(weight.shape)))
            target.weight.copy_(weight)
            if target.bias is not None:
                target.bias.copy_(bias)
