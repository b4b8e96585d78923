from __future__ import annotations

import numpy as np
import pytest
import torch

from slimq.core.errors import InvalidInputError
from slimq.networks.qnetwork import QNetwork
from slimq.networks.specification import ConvLayer, ConvSpec, MLPSpec, QNetworkSpec
from slimq_compression.passes.prune_channels import Importance, Params, apply, keep_units

CONV = QNetworkSpec(
    body=ConvSpec(
        convolutions=(
            ConvLayer(channels=6, kernel=4, stride=2),
            ConvLayer(channels=8, kernel=3, stride=1),
        ),
        hidden=(20,),
    ),
    observation_shape=(2, 20, 16),
    observation_dtype="uint8",
    actions=3,
)


def make_network(spec: QNetworkSpec) -> QNetwork:
    torch.manual_seed(0)
    return QNetwork(spec).eval()


def test_kept_weights_are_bit_for_bit_the_parents_slices_through_the_flatten() -> None:
    parent = make_network(CONV)
    kept = [torch.tensor(k) for k in ([0, 2, 5], [1, 3, 4, 7], [0, 9, 19])]
    child = keep_units(parent, kept)
    conv1, conv2, dense = (parent.features[i] for i in (0, 2, 5))
    small1, small2, small_dense = (child.features[i] for i in (0, 2, 5))
    assert torch.equal(small1.weight, conv1.weight[kept[0]])
    assert torch.equal(small1.bias, conv1.bias[kept[0]])
    assert torch.equal(small2.weight, conv2.weight[kept[1]][:, kept[0]])
    blocks = dense.weight.reshape(20, 8, -1)[kept[2]][:, kept[1]].flatten(1)
    assert torch.equal(small_dense.weight, blocks)
    assert torch.equal(small_dense.bias, dense.bias[kept[2]])
    assert torch.equal(child.head.weight, parent.head.weight[:, kept[2]])
    assert torch.equal(child.head.bias, parent.head.bias)


def test_removing_units_that_give_nothing_changes_no_q_value() -> None:
    parent = make_network(CONV)
    with torch.no_grad():
        for index, unit in ((0, 1), (2, 3), (5, 7)):
            parent.features[index].weight[unit] = 0
            parent.features[index].bias[unit] = 0
    child = apply(parent, Params(keep=(5 / 6, 7 / 8, 19 / 20)), None)  # type: ignore[arg-type]
    observations = torch.randint(0, 256, (7, 2, 20, 16), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(child(observations), parent(observations))


def test_widths_and_the_specification_follow_the_shares_and_the_multiple() -> None:
    child = apply(make_network(CONV), Params(keep=(0.5, 0.3, 0.55), multiple_of=4), None)  # type: ignore[arg-type]
    assert isinstance(child.spec.body, ConvSpec)
    assert [layer.channels for layer in child.spec.body.convolutions] == [4, 4]
    assert child.spec.body.hidden == (12,)
    assert child.features[0].weight.shape[0] == 4


@pytest.mark.parametrize(("importance", "kept"), [(Importance.L1, 0), (Importance.L2, 1)])
def test_units_are_ranked_by_the_chosen_norm(importance: Importance, kept: int) -> None:
    """(2, 2, 0) has L1 norm 4 and L2 norm 2.83; (3, 0, 0) has 3 and 3."""
    network = make_network(
        QNetworkSpec(
            body=MLPSpec(hidden=(2,)),
            observation_shape=(3,),
            observation_dtype="float32",
            actions=2,
        )
    )
    with torch.no_grad():
        network.features[0].weight.copy_(torch.tensor([[2.0, 2.0, 0.0], [3.0, 0.0, 0.0]]))
    child = apply(network, Params(importance=importance, keep=(0.5,)), None)  # type: ignore[arg-type]
    assert torch.equal(child.features[0].weight[0], network.features[0].weight[kept])


def test_a_global_ratio_takes_units_where_they_are_least_important() -> None:
    """Scores relative to their layer's mean: 1.6, 0.4 and 1.2, 0.8; three quarters stay."""
    network = make_network(
        QNetworkSpec(
            body=MLPSpec(hidden=(2, 2)),
            observation_shape=(1,),
            observation_dtype="float32",
            actions=2,
        )
    )
    with torch.no_grad():
        network.features[0].weight.copy_(torch.tensor([[8.0], [2.0]]))
        network.features[2].weight.copy_(torch.tensor([[0.0, 12.0], [8.0, 0.0]]))
    child = apply(network, Params(ratio=0.75), None)  # type: ignore[arg-type]
    assert child.spec.body.hidden == (1, 2)
    np.testing.assert_array_equal(child.features[0].weight.detach(), [[8.0]])


def test_at_least_one_unit_of_each_layer_stays() -> None:
    child = apply(make_network(CONV), Params(ratio=0.01), None)  # type: ignore[arg-type]
    body = child.spec.body
    assert isinstance(body, ConvSpec)
    assert min(*(layer.channels for layer in body.convolutions), *body.hidden) == 1


def test_a_wrong_number_of_shares_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match=r"^prune_channels\.keep: expected 3 shares"):
        apply(make_network(CONV), Params(keep=(0.5,)), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [{}, {"ratio": 0.5, "keep": (0.5,)}])
def test_exactly_one_of_keep_and_ratio_is_needed(values: dict) -> None:
    with pytest.raises(ValueError, match="exactly one of keep and ratio"):
        Params(**values)
