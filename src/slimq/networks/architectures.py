"""Compact convolutional bodies for frame stacks, by name: architectures for students.

    nature      the network of Mnih et al. 2015 with fewer channels and neurons
    mobilenet   inverted residual blocks around depthwise convolutions (Sandler et al. 2018,
                "MobileNetV2", 1801.04381, §3), between strided depthwise-separable convolutions
                (Howard et al. 2017, 1704.04861, §3.1) with linear projections
    shufflenet  residual blocks of grouped 1×1 convolutions with a channel shuffle between them
                (Zhang et al. 2018, "ShuffleNet", 1707.01083, §3.2)

Each is a function of a width multiplier (Howard et al. 2017, §3.3). ShuffleNet's strided unit
concatenates an average-pooled copy of its input; here the strided convolutions have no shortcut.
The latter two have batch normalization after every convolution, which ONNX Runtime folds at load.

Depthwise convolutions are cheap in arithmetic but not in time: in networks this small, each layer
has a fixed cost of a few microseconds. At batch 1 on 84×84 frames with AVX2, measured alone,
mobilenet takes 0.6 and shufflenet 0.4 of the Nature network's 370 µs; three plain layers of width
0.25 take 0.25.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

from slimq.networks.layers import ConvLayer, InnerLayer, Layer, ResidualLayer, ShuffleLayer
from slimq.networks.specification import NATURE, ConvSpec

Architecture = Literal["nature", "mobilenet", "shufflenet"]

BLOCK = 8
"""Divisor of all widths: the number of floats in an AVX2 register."""
EXPANSION = 4
"""Expansion factor of an inverted residual block."""
SHUFFLE_GROUPS = 2


def nature(width: float = 1.0) -> ConvSpec:
    """The Nature network, with its channels and neurons scaled by `width`."""
    convolutions = tuple(
        layer.model_copy(update={"channels": scaled(layer.channels, width)})
        for layer in NATURE.convolutions
        if isinstance(layer, ConvLayer)
    )
    return ConvSpec(convolutions=convolutions, hidden=(scaled(512, width),))


def mobilenet(width: float = 1.0) -> ConvSpec:
    """MobileNetV2-style: 165,934 parameters and 4.25 M MACs with 84×84×4 frames and six actions."""
    stages = [scaled(channels, width) for channels in (16, 32, 40)]
    layers: list[Layer] = [_conv(stages[0], 8, 4)]
    for channels, following in pairwise(stages):
        layers += [_inverted_residual(channels), _depthwise(channels, 2)]
        layers.append(_conv(following, 1, activation=False))
    layers += [_inverted_residual(stages[-1]), _conv(stages[-1], 1)]
    return ConvSpec(convolutions=tuple(layers), hidden=(scaled(128, width),))


def shufflenet(width: float = 1.0) -> ConvSpec:
    """ShuffleNet-style: 221,622 parameters and 2.38 M MACs with 84×84×4 frames and six actions."""
    stages = [scaled(channels, width) for channels in (16, 32, 64)]
    layers: list[Layer] = [_conv(stages[0], 8, 4)]
    for channels, following in pairwise(stages):
        layers += [_shuffle_unit(channels), _depthwise(channels, 2, activation=False)]
        layers.append(_conv(following, 1, groups=SHUFFLE_GROUPS))
        layers.append(ShuffleLayer(groups=SHUFFLE_GROUPS))
    layers += [_shuffle_unit(stages[-1]), _conv(stages[-1], 1, groups=SHUFFLE_GROUPS)]
    return ConvSpec(convolutions=tuple(layers), hidden=(scaled(128, width),))


ARCHITECTURES: dict[Architecture, Callable[[float], ConvSpec]] = {
    "nature": nature,
    "mobilenet": mobilenet,
    "shufflenet": shufflenet,
}
"""Each architecture as a function of its width multiplier."""


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to the nearest positive multiple of `BLOCK`."""
    return max(BLOCK, int(channels * width / BLOCK + 0.5) * BLOCK)


def _conv(
    channels: int, kernel: int, stride: int = 1, *, groups: int = 1, activation: bool = True
) -> ConvLayer:
    return ConvLayer(
        channels=channels,
        kernel=kernel,
        stride=stride,
        groups=groups,
        batch_norm=True,
        activation=activation,
    )


def _depthwise(channels: int, stride: int = 1, *, activation: bool = True) -> ConvLayer:
    return ConvLayer(
        channels=channels,
        kernel=3,
        stride=stride,
        padding=1,
        groups=channels,
        batch_norm=True,
        activation=activation,
    )


def _inverted_residual(channels: int) -> ResidualLayer:
    """Expands, filters each channel, projects without a ReLU (Sandler et al. 2018, table 1)."""
    inner = EXPANSION * channels
    layers: tuple[InnerLayer, ...] = (
        _conv(inner, 1),
        _depthwise(inner),
        _conv(channels, 1, activation=False),
    )
    return ResidualLayer(layers=layers)


def _shuffle_unit(channels: int) -> ResidualLayer:
    """The unit of Zhang et al. 2018, figure 2b, without its bottleneck."""
    layers: tuple[InnerLayer, ...] = (
        _conv(channels, 1, groups=SHUFFLE_GROUPS),
        ShuffleLayer(groups=SHUFFLE_GROUPS),
        _depthwise(channels, activation=False),
        _conv(channels, 1, groups=SHUFFLE_GROUPS, activation=False),
    )
    return ResidualLayer(layers=layers)
