from __future__ import annotations

import pytest
import torch

from slimq.core.errors import InvalidInputError
from slimq.networks.qnetwork import QNetwork, named_layers
from slimq_compression.network.distillation import DistillationParams, distil
from slimq_compression.network.importance import WeightImportance
from slimq_compression.passes.prune_weights import Params, Scope, apply


def weights(network: QNetwork) -> dict[str, torch.Tensor]:
    return {name: layer.weight.detach() for name, layer in named_layers(network).items()}


def sparsity(tensors: dict[str, torch.Tensor]) -> float:
    zeros = sum(int((t == 0).sum()) for t in tensors.values())
    return zeros / sum(t.numel() for t in tensors.values())


@pytest.mark.parametrize("importance", list(WeightImportance))
@pytest.mark.parametrize("scope", list(Scope))
def test_the_wanted_share_is_zero_and_the_others_are_the_parents(
    make_network, make_context, importance: WeightImportance, scope: Scope
) -> None:
    network = make_network("conv")
    params = Params(sparsity=0.8, importance=importance, scope=scope, states=16)
    before, after = weights(network), weights(apply(network, params, make_context("conv", network)))
    assert sparsity(after) == pytest.approx(0.8, abs=0.01)
    for name, weight in after.items():
        kept = weight != 0
        assert torch.equal(weight[kept], before[name][kept])
        if scope is Scope.LAYER:
            assert sparsity({name: weight}) == pytest.approx(0.8, abs=0.02)


def test_importances_keep_different_weights(make_network, make_context) -> None:
    network = make_network("conv")
    masks = [
        weights(apply(network, Params(sparsity=0.8, importance=i), make_context("conv", network)))[
            "dense1"
        ]
        != 0
        for i in WeightImportance
    ]
    for first in range(len(masks)):
        for second in range(first):
            assert not torch.equal(masks[first], masks[second])


def test_ranking_all_layers_together_spares_a_layer_of_large_weights(
    make_network, make_context
) -> None:
    network = make_network("conv")
    with torch.no_grad():
        network.head.weight.mul_(100)
    pruned = apply(network, Params(sparsity=0.9), make_context("conv", network))
    assert sparsity({"head": weights(pruned)["head"]}) < 0.1


def test_what_is_excluded_stays_dense(make_network, make_context) -> None:
    network = make_network("conv")
    params = Params(sparsity=0.9, exclude=("conv1", "head"))
    pruned = weights(apply(network, params, make_context("conv", network)))
    assert torch.equal(pruned["conv1"], weights(network)["conv1"])
    assert sparsity({n: w for n, w in pruned.items() if n not in params.exclude}) > 0.89


def test_what_is_excluded_by_role_stays_dense(make_network, make_context) -> None:
    network, context = make_network("conv"), make_context("conv", make_network("conv"))
    by_role, by_name = (
        weights(apply(network, Params(sparsity=0.9, exclude=exclude), context))
        for exclude in (("first", "head"), ("conv1", "head"))
    )
    assert all(torch.equal(by_role[name], by_name[name]) for name in by_name)


def test_an_exclusion_that_no_layer_has_is_refused(make_network, make_context) -> None:
    network = make_network("mlp")
    message = (
        r"prune_weights\.exclude: expected a role of the layers \(first, dense, head\), "
        r"received 'convolutions'$"
    )
    with pytest.raises(InvalidInputError, match=message):
        apply(network, Params(exclude=("convolutions",)), make_context("mlp", network))


def test_gradual_pruning_happens_in_the_fine_tuning_that_comes_next(
    make_network, make_context
) -> None:
    network = make_network("conv")
    context = make_context("conv", network)
    pruned = apply(network, Params(sparsity=0.9, gradual=True), context)
    assert sparsity(weights(pruned)) == 0.0
    training = DistillationParams(rounds=2, states=32, updates=40, batch_size=8, replay_states=64)
    assert sparsity(weights(distil(pruned, training, context))) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize(
    ("exclude", "received"),
    [(("conv9",), "conv9"), (("conv1", "conv2", "dense1", "head"), "all")],
)
def test_impossible_exclusions_are_refused(
    make_network, make_context, exclude: tuple[str, ...], received: str
) -> None:
    network = make_network("conv")
    with pytest.raises(InvalidInputError, match=rf"prune_weights\.exclude.*conv1.*{received}"):
        apply(network, Params(exclude=exclude), make_context("conv", network))


def test_a_layer_that_is_held_already_is_refused_by_name(make_network, make_context) -> None:
    network = make_network("conv")
    context = make_context("conv", network)
    pruned = apply(network, Params(sparsity=0.5), context)
    with pytest.raises(
        InvalidInputError, match=r"already pruned or quantized \(conv1, .*received none"
    ):
        apply(pruned, Params(sparsity=0.9), context)
