"""Units of a network, which structured passes rank, remove and factor.

A unit is an output channel of a convolution or a neuron of a hidden dense layer. Its value is the
input of the next layer: the output of the layer, of its batch normalization or of its activation,
whichever comes last.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from slimq.core.errors import InvalidInputError
from slimq.networks.layers import ConvLayer, ResidualLayer
from slimq.networks.qnetwork import QNetwork, WeightedLayer, named_layers
from slimq.networks.specification import ConvSpec


@dataclass(frozen=True)
class UnitLayer:
    """One layer before the head, with its normalization and activation.

    Attributes:
        name: the name in the exported graph, such as `conv1`.
        layer: a plain convolution or a dense layer.
        norm: the batch normalization after it, if any.
        last: the module whose output is the next layer's input.
    """

    name: str
    layer: WeightedLayer
    norm: nn.BatchNorm2d | None
    last: nn.Module

    @property
    def width(self) -> int:
        """Number of units."""
        return len(self.layer.weight)


def unit_layers(network: QNetwork, owner: str) -> list[UnitLayer]:
    """The convolutions and hidden dense layers of a plain network, in order of computation.

    Args:
        network: convolutions with or without batch normalization, then dense layers.
        owner: name of the pass, for errors.

    Raises:
        InvalidInputError: there are grouped convolutions, shuffles or residual blocks, which couple
            the units of several layers.
    """
    _check_plain(network, owner)
    names = {id(layer): name for name, layer in named_layers(network).items()}
    found: list[UnitLayer] = []
    for module in network.features:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            found.append(UnitLayer(names[id(module)], module, None, module))
        elif isinstance(module, nn.BatchNorm2d):
            found[-1] = UnitLayer(found[-1].name, found[-1].layer, module, module)
        elif isinstance(module, nn.ReLU):
            found[-1] = UnitLayer(found[-1].name, found[-1].layer, found[-1].norm, module)
    return found


def _check_plain(network: QNetwork, owner: str) -> None:
    body = network.spec.body
    for index, layer in enumerate(body.convolutions if isinstance(body, ConvSpec) else ()):
        if isinstance(layer, ConvLayer) and layer.groups == 1:
            continue
        if isinstance(layer, ConvLayer):
            found = f"a convolution with {layer.groups} groups"
        else:
            found = "a residual block" if isinstance(layer, ResidualLayer) else "a channel shuffle"
        expected = "a network of plain convolutions and dense layers"
        raise InvalidInputError(f"{owner}.network", expected, f"convolutions[{index}]: {found}")
