from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from slimq.core.errors import InvalidInputError
from slimq.networks.grids import LinearLevels
from slimq.networks.layers import ConvLayer, DenseLayer, ShuffleLayer
from slimq.networks.qnetwork import QNetwork
from slimq.networks.specification import ConvSpec, MLPSpec, QNetworkSpec
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.network.importance import Importance, unit_scores
from slimq_compression.passes.prune_channels import Params, apply, keep_units
from small_networks import SPECS

CONV = SPECS["conv"]
NORMALIZED = CONV.model_copy(
    update={
        "body": ConvSpec(
            convolutions=(
                ConvLayer(channels=6, kernel=4, stride=2, batch_norm=True),
                ConvLayer(channels=8, kernel=3, padding=1, batch_norm=True),
            ),
            hidden=(DenseLayer(width=5, activation=False), 20),
        )
    }
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


@pytest.mark.parametrize(
    ("keep", "shares"),
    [
        (0.5, (0.5, 0.5, 0.5)),
        ({"convolutions": 0.7, "dense": 0.55}, (0.7, 0.7, 0.55)),
        ({"first": 1.0, "convolutions": 0.5, "dense1": 0.3}, (1.0, 0.5, 0.3)),
        ({"default": 0.4, "convolutions": 0.6}, (0.6, 0.6, 0.4)),
    ],
)
def test_shares_by_role_do_what_they_do_in_order(keep: Any, shares: tuple[float, ...]) -> None:
    network = make_network(CONV)
    by_role, in_order = (apply(network, Params(keep=k), None) for k in (keep, shares))  # type: ignore[arg-type]
    assert by_role.spec == in_order.spec
    for name, tensor in in_order.state_dict().items():
        assert torch.equal(by_role.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("keep", "problem"),
    [
        ({"dense": 0.5}, "a value for each of the prunable layers, .* none for conv1, conv2$"),
        (
            {"conv9": 0.5, "default": 1.0},
            "prunable layers \\(conv1, conv2, dense1\\), received 'conv9'",
        ),
    ],
)
def test_shares_that_do_not_fit_the_network_are_refused_by_name(
    keep: dict[str, float], problem: str
) -> None:
    with pytest.raises(InvalidInputError, match=rf"^prune_channels\.keep: expected .*{problem}"):
        apply(make_network(CONV), Params(keep=keep), None)  # type: ignore[arg-type]


def test_the_head_is_not_pruned() -> None:
    with pytest.raises(ValueError, match="keep: the head has one unit per action"):
        Params(keep={"head": 0.5})


@pytest.mark.parametrize("values", [{}, {"ratio": 0.5, "keep": (0.5,)}])
def test_exactly_one_of_keep_and_ratio_is_needed(values: dict) -> None:
    with pytest.raises(ValueError, match="exactly one of keep and ratio"):
        Params(**values)


def make_normalized() -> QNetwork:
    """Every channel has its own statistics, scale and shift."""
    network = make_network(NORMALIZED)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 1.5)
            module.num_batches_tracked.fill_(7)
    return network


def test_batch_normalization_is_cut_with_its_channels() -> None:
    parent = make_normalized()
    kept = [torch.tensor(k) for k in ([0, 2, 5], [1, 3, 4, 7], [0, 1, 2, 3, 4], [0, 9, 19])]
    child = keep_units(parent, kept)
    for index, channels in ((1, kept[0]), (4, kept[1])):
        old, new = parent.features[index].state_dict(), child.features[index].state_dict()
        for name in ("weight", "bias", "running_mean", "running_var"):
            assert torch.equal(new[name], old[name][channels]), name
        assert int(new["num_batches_tracked"]) == 7


def test_removing_channels_whose_normalization_gives_nothing_changes_no_q_value() -> None:
    parent = make_normalized()
    with torch.no_grad():
        for norm, unit in ((1, 1), (4, 3)):
            parent.features[norm].weight[unit] = 0
            parent.features[norm].bias[unit] = 0
    params = Params(importance=Importance.BN_SCALE, keep=(5 / 6, 7 / 8, 1.0, 1.0))
    child = apply(parent, params, None)  # type: ignore[arg-type]
    assert [layer.channels for layer in child.spec.body.convolutions] == [5, 7]
    observations = torch.randint(0, 256, (7, 2, 20, 16), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(child(observations), parent(observations))


def test_a_bottleneck_stays_one_without_activation() -> None:
    child = apply(make_normalized(), Params(keep=(0.5, 0.5, 0.4, 0.5)), None)  # type: ignore[arg-type]
    assert child.spec.body.hidden == (DenseLayer(width=2, activation=False), 10)
    assert [type(module).__name__ for module in child.features[7:]] == ["Linear", "Linear", "ReLU"]


def test_bn_scale_ranks_all_channels_together_and_lets_each_dense_layer_keep_its_share() -> None:
    """Of the scales 1 to 6 and 7 to 14, half are 8 and above: none of the first layer but one."""
    parent = make_normalized()
    parent.features[1].weight.data.copy_(torch.arange(1.0, 7.0))
    parent.features[4].weight.data.copy_(torch.arange(7.0, 15.0))
    child = apply(parent, Params(importance=Importance.BN_SCALE, ratio=0.5), None)  # type: ignore[arg-type]
    assert [layer.channels for layer in child.spec.body.convolutions] == [1, 7]
    assert [layer.width for layer in child.spec.dense_layers] == [3, 10]
    assert child.features[1].weight.tolist() == [6.0]


def test_gradient_scores_are_compared_by_their_share_of_the_layers_l2_norm(make_context) -> None:
    parent = make_network(CONV)
    context = make_context("conv", parent)
    scores = unit_scores(parent, Importance.TAYLOR, 32, context)
    shares = [score / score.square().sum().sqrt() for score in scores]
    threshold = torch.cat(shares).sort(descending=True).values[17 - 1]
    params = Params(importance=Importance.TAYLOR, ratio=0.5, states=32)
    child = apply(parent, params, context)
    widths = [int((share >= threshold).sum()) for share in shares]
    assert sum(widths) == 17
    body = child.spec.body
    assert [*(layer.channels for layer in body.convolutions), *body.hidden] == widths


@pytest.mark.parametrize("importance", [Importance.TAYLOR, Importance.OBD])
def test_gradients_find_the_units_that_do_nothing_where_norms_do_not(
    importance: Importance, make_context
) -> None:
    """Large weights of a unit that nothing reads are of no use."""
    parent = make_network(CONV)
    with torch.no_grad():
        for layer, after in ((0, 2), (2, None), (5, None)):
            parent.features[layer].weight[3] *= 10
            if after is not None:
                parent.features[after].weight[:, 3] = 0
        parent.features[5].weight.view(20, 8, -1)[:, 3] = 0
        parent.head.weight[:, 3] = 0
    context = make_context("conv", parent)
    states = context.states
    keep = (5 / 6, 7 / 8, 19 / 20)
    child = apply(parent, Params(importance=importance, keep=keep), context)
    by_norm = apply(parent, Params(importance=Importance.L1, keep=keep), context)
    expected = TorchPolicy(parent)(states)
    np.testing.assert_allclose(TorchPolicy(child)(states), expected, atol=1e-5)
    assert np.abs(TorchPolicy(by_norm)(states) - expected).max() > 1e-3


def test_grids_and_ranges_do_not_outlive_the_shape_that_they_were_for() -> None:
    parent = make_network(CONV)
    parent.grids["conv1"] = (LinearLevels(7),)
    parent.ranges["conv1.relu"] = (0.0, 1.0)
    child = apply(parent, Params(ratio=0.5), None)  # type: ignore[arg-type]
    assert child.grids == {}
    assert child.ranges == {}
    assert list(parent.grids) == ["conv1"]


def test_a_network_whose_units_are_tied_together_is_refused_by_name() -> None:
    body = ConvSpec(
        convolutions=(ConvLayer(channels=4, kernel=3), ShuffleLayer(groups=2)), hidden=()
    )
    network = make_network(CONV.model_copy(update={"body": body}))
    message = r"^prune_channels\.network: .*received convolutions\[1\]: a channel shuffle$"
    with pytest.raises(InvalidInputError, match=message):
        apply(network, Params(ratio=0.5), None)  # type: ignore[arg-type]
