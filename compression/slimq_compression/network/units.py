"""The units of a network: what structured passes count, rank, remove and factor.

A unit is an output channel of a convolution or a neuron of a hidden dense layer. Its value is what
the next layer reads: the output of the layer, of its batch normalization, or of its activation,
whichever comes last.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from slimq.core.errors import InvalidInputError
from slimq.networks.qnetwork import QNetwork, WeightedLayer, named_layers
from slimq.networks.specification import ConvLayer, ConvSpec, ResidualLayer


@dataclass(frozen=True)
class UnitLayer:
    """One layer in front of the head, with what belongs to it.

    Attributes:
        name: as in the exported graph, such as `conv1`.
        layer: a plain convolution or a dense layer.
        norm: the batch normalization behind it, if there is one.
        last: the module whose output the next layer reads.
    """

    name: str
    layer: WeightedLayer
    norm: nn.BatchNorm2d | None
    last: nn.Module

    @property
    def width(self) -> int:
        """How many units it has."""
        return len(self.layer.weight)


def unit_layers(network: QNetwork, owner: str) -> list[UnitLayer]:
    """The convolutions and hidden dense layers of a plain network, in order of computation.

    Args:
        network: convolutions with or without batch normalization, then dense layers.
        owner: the pass, as errors name it.

    Raises:
        InvalidInputError: a convolution has groups, or there are shuffles or residual blocks, which
            tie the units of several layers together.
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
            what = f"a convolution with {layer.groups} groups"
        else:
            what = "a residual block" if isinstance(layer, ResidualLayer) else "a channel shuffle"
        expected = "a network of plain convolutions and dense layers"
        raise InvalidInputError(f"{owner}.network", expected, f"convolutions[{index}]: {what}")
