from __future__ import annotations

import pytest
from torch import nn

from slimq.core.errors import InvalidInputError
from slimq.networks.layers import ConvLayer, DenseLayer, Layer, ResidualLayer, ShuffleLayer
from slimq.networks.qnetwork import QNetwork
from slimq.networks.specification import ConvSpec, QNetworkSpec
from slimq_compression.network.units import unit_layers


def build(convolutions: tuple[Layer, ...], hidden: tuple[int | DenseLayer, ...] = (5,)) -> QNetwork:
    return QNetwork(
        QNetworkSpec(
            body=ConvSpec(convolutions=convolutions, hidden=hidden),
            observation_shape=(2, 20, 16),
            observation_dtype="uint8",
            actions=3,
        )
    ).eval()


def test_a_layer_comes_with_its_normalization_and_the_module_that_the_next_one_reads() -> None:
    network = build(
        (
            ConvLayer(channels=4, kernel=3, batch_norm=True),
            ConvLayer(channels=6, kernel=3, batch_norm=True, activation=False),
            ConvLayer(channels=8, kernel=3),
        ),
        (DenseLayer(width=3, activation=False), 5),
    )
    units = unit_layers(network, "a_pass")
    assert [unit.name for unit in units] == ["conv1", "conv2", "conv3", "dense1", "dense2"]
    assert [unit.width for unit in units] == [4, 6, 8, 3, 5]
    assert [type(unit.norm) for unit in units[:2]] == [nn.BatchNorm2d, nn.BatchNorm2d]
    assert [unit.norm for unit in units[2:]] == [None, None, None]
    kinds = [nn.ReLU, nn.BatchNorm2d, nn.ReLU, nn.Linear, nn.ReLU]
    assert [type(unit.last) for unit in units] == kinds


@pytest.mark.parametrize(
    ("second", "received"),
    [
        (ConvLayer(channels=4, kernel=3, groups=2), "a convolution with 2 groups"),
        (ShuffleLayer(groups=2), "a channel shuffle"),
        (
            ResidualLayer(layers=(ConvLayer(channels=4, kernel=3, padding=1),)),
            "a residual block",
        ),
    ],
)
def test_layers_whose_units_are_tied_together_are_refused_by_place(
    second: Layer, received: str
) -> None:
    network = build((ConvLayer(channels=4, kernel=3), second))
    message = (
        r"^a_pass\.network: expected a network of plain convolutions and dense layers, "
        rf"received convolutions\[1\]: {received}$"
    )
    with pytest.raises(InvalidInputError, match=message):
        unit_layers(network, "a_pass")
