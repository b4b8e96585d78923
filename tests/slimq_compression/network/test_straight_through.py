from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from slimq.networks.grids import LinearLevels, Mask
from slimq.networks.qnetwork import QNetwork, activation_names, named_layers
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.network.distillation import DistillationParams, distil
from slimq_compression.network.straight_through import LatentNetwork, attach_grids

CPU = torch.device("cpu")


def test_holding_a_layer_puts_its_weights_on_the_grid(make_network) -> None:
    network = make_network("conv")
    attach_grids(network, "dense1", (Mask(0.5), LinearLevels(7)))
    weight = named_layers(network)["dense1"].weight.detach()
    assert float((weight == 0).float().mean()) >= 0.5
    assert all(len(row.unique()) <= 15 for row in weight)


def test_weights_are_projected_inside_the_context_and_latent_outside(make_network) -> None:
    network = make_network("mlp")
    network.grids["dense1"] = (Mask(0.5),)
    latent = network.features[0].weight.detach().clone()
    wrapped = LatentNetwork(network, None, CPU)
    with wrapped.projected() as inside:
        assert float((inside.features[0].weight == 0).float().mean()) == 0.5
    assert torch.equal(network.features[0].weight, latent)


def test_latent_weights_come_back_even_if_the_update_fails(make_network) -> None:
    network = make_network("mlp")
    network.grids["dense1"] = (Mask(0.5),)
    latent = network.features[0].weight.detach().clone()
    wrapped = LatentNetwork(network, None, CPU)
    with pytest.raises(RuntimeError, match="broken"), wrapped.projected():
        raise RuntimeError("broken")
    assert torch.equal(network.features[0].weight, latent)


def test_the_gradient_of_a_projected_weight_reaches_the_latent_one(make_network) -> None:
    network = make_network("mlp")
    network.grids["dense1"] = (LinearLevels(1),)
    wrapped = LatentNetwork(network, None, CPU)
    with wrapped.projected():
        network(torch.ones(3, 4)).sum().backward()
    gradient = network.features[0].weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_training_ends_on_the_grid_and_remembers_it(make_network, make_context) -> None:
    student = make_network("conv", 1)
    attach_grids(student, "dense1", (Mask(0.8, gradual=True), LinearLevels(7)))
    given = copy.deepcopy(student)
    params = DistillationParams(rounds=2, states=40, updates=30, batch_size=8, replay_states=80)
    trained = distil(student, params, make_context("conv", make_network("conv")))
    weight = named_layers(trained)["dense1"].weight.detach()
    assert float((weight == 0).float().mean()) >= 0.8
    assert all(len(row.unique()) <= 15 for row in weight)
    assert set(trained.grids) == {"dense1"}
    assert torch.equal(given.features[0].weight, student.features[0].weight)
    assert not torch.equal(trained.features[0].weight, student.features[0].weight)
    assert student.grids["dense1"] is not trained.grids["dense1"]


def test_quantization_aware_training_learns_a_range_for_every_relu_and_leaves_it_off(
    make_network, make_context, make_states
) -> None:
    student = make_network("conv", 1)
    params = DistillationParams(
        rounds=1, states=40, updates=20, batch_size=8, replay_states=80, activation_bits=8
    )
    trained = distil(student, params, make_context("conv", make_network("conv")))
    assert list(trained.ranges) == ["conv1.relu", "conv2.relu", "dense1.relu"]
    assert all(low == 0.0 < high for low, high in trained.ranges.values())
    plain = QNetwork(trained.spec).eval()
    plain.load_state_dict(trained.state_dict())
    states = make_states("conv", 32)
    np.testing.assert_allclose(TorchPolicy(trained)(states), TorchPolicy(plain)(states), 1e-5)


def test_activations_take_as_many_levels_as_the_bits_allow(make_network, make_states) -> None:
    network = make_network("mlp")
    wrapped = LatentNetwork(network, 2, CPU)
    seen: list[torch.Tensor] = []
    relu = activation_names(network)["dense1.relu"]
    relu.register_forward_hook(lambda _m, _g, output: seen.append(output.detach()))
    network.train()
    network(torch.from_numpy(make_states("mlp", 200)))
    assert len(seen[0].unique()) == 4
    wrapped.advance(1.0)
    network(torch.from_numpy(make_states("mlp", 200) * 100))
    assert float(seen[1].max()) == pytest.approx(float(seen[0].max()))


def test_the_network_plays_as_it_will_be_deployed(make_network, make_context, make_states) -> None:
    student = make_network("mlp", 1)
    attach_grids(student, "dense2", (LinearLevels(1),))
    context = make_context("mlp", make_network("mlp"))
    states, answers = make_states("mlp", 20), []
    draw = context.collect.states

    def watch(player, *arguments, **options):
        answers.append(player(states))
        return draw(player, *arguments, **options)

    context.collect.states = watch
    params = DistillationParams(rounds=1, teacher_rounds=0, states=8, updates=1, units="absolute")
    distil(student, params, replace(context))
    np.testing.assert_allclose(answers[0], TorchPolicy(student)(states), atol=1e-6)
