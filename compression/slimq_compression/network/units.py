"""Units of a network, which structured passes rank, remove or factor.

A unit is an output channel of a convolution or a neuron of a hidden dense layer. Its value is the
input of the next layer: the output of the layer, of its batch normalization or of its activation,
whichever comes last.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from slimq.core.errors import InvalidInputError
from slimq.networks.heads import ACTIVATIONS
from slimq.networks.layers import ResidualLayer, ShuffleLayer
from slimq.networks.qnetwork import QNetwork, WeightedLayer, named_layers
from slimq.networks.specification import ConvSpec, MultiInputSpec, QNetworkSpec


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
        InvalidInputError: the network is not plain; see `check_plain`.
    """
    check_plain(network.spec, owner)
    names = {id(layer): name for name, layer in named_layers(network).items()}
    activations = tuple(ACTIVATIONS.values())
    found: list[UnitLayer] = []
    for module in network.features:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            found.append(UnitLayer(names[id(module)], module, None, module))
        elif isinstance(module, nn.BatchNorm2d):
            found[-1] = UnitLayer(found[-1].name, found[-1].layer, module, module)
        elif isinstance(module, activations):
            found[-1] = UnitLayer(found[-1].name, found[-1].layer, found[-1].norm, module)
    return found


def check_plain(spec: QNetworkSpec, owner: str) -> None:
    """Checks that a network is a chain of convolutions and dense layers up to a linear head.

    Args:
        spec: the network's specification.
        owner: name of the pass, for errors.

    Raises:
        InvalidInputError: it is not; the error names what couples the units of several layers.
    """
    found = _coupling(spec)
    if found is not None:
        expected = "a network of plain convolutions and dense layers"
        raise InvalidInputError(f"{owner}.network", expected, found)


def _coupling(spec: QNetworkSpec) -> str | None:
    """The reason why a network is not a plain chain; None if it is one."""
    body = spec.body
    if isinstance(body, MultiInputSpec):
        return "one with several inputs"
    if not spec.head.is_linear:
        return "one with a dueling head" if spec.head.dueling else "one with a distributional head"
    for index, layer in enumerate(body.convolutions if isinstance(body, ConvSpec) else ()):
        found = None
        if isinstance(layer, ResidualLayer):
            found = "a residual block"
        elif isinstance(layer, ShuffleLayer):
            found = "a channel shuffle"
        elif layer.groups > 1:
            found = f"a convolution with {layer.groups} groups"
        elif layer.layer_norm:
            found = "layer normalization"
        if found:
            return f"convolutions[{index}]: {found}"
    for index, dense in enumerate(spec.dense_layers):
        if dense.layer_norm:
            return f"hidden[{index}]: layer normalization"
    return None
