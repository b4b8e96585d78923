from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from slimq.core.errors import InvalidInputError
from slimq.networks.checkpoint import save_network
from slimq.networks.layers import ConvLayer, ResidualLayer, ShuffleLayer
from slimq.networks.qnetwork import QNetwork, named_layers
from slimq.networks.specification import ConvSpec, MLPSpec, QNetworkSpec
from slimq_compression.network.importance import (
    Importance,
    WeightImportance,
    unit_scores,
    weight_sensitivities,
)

NORMALIZED = ConvSpec(
    convolutions=(
        ConvLayer(channels=4, kernel=4, stride=2, batch_norm=True),
        ConvLayer(channels=6, kernel=3, padding=1, batch_norm=True),
    ),
    hidden=(7,),
)
TIED = ConvSpec(
    convolutions=(
        ConvLayer(channels=6, kernel=4, stride=2),
        ConvLayer(channels=12, kernel=3, padding=1, groups=3),
        ShuffleLayer(groups=3),
        ResidualLayer(layers=(ConvLayer(channels=12, kernel=3, padding=1, groups=12),)),
    ),
    hidden=(7,),
)


def build(body: ConvSpec | MLPSpec, actions: int = 3) -> QNetwork:
    convolutional = isinstance(body, ConvSpec)
    spec = QNetworkSpec(
        body=body,
        observation_shape=(2, 20, 16) if convolutional else (4,),
        observation_dtype="uint8" if convolutional else "float32",
        actions=actions,
    )
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = QNetwork(spec).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_mean, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network


def gradients(network: QNetwork, states: Tensor, power: int, *, greedy: bool) -> dict[str, Tensor]:
    """The mean over states of |∂V/∂w| or Σ_a (∂Q_a/∂w)², one state and one output at a time."""
    layers = named_layers(network)
    totals = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    for state in states:
        q_values = network(state[None])[0]
        for value in [q_values.max()] if greedy else list(q_values):
            found = torch.autograd.grad(
                value, [layer.weight for layer in layers.values()], retain_graph=True
            )
            for name, gradient in zip(totals, found, strict=True):
                totals[name] += gradient.abs().pow(power) / len(states)
    return totals


@pytest.mark.parametrize("body", [NORMALIZED, TIED, MLPSpec(hidden=(8, 6))])
def test_taylor_is_the_mean_absolute_gradient_of_the_best_actions_value(body, make_context) -> None:
    network = build(body)
    context = make_context("mlp" if isinstance(body, MLPSpec) else "conv", network, states=40)
    found = weight_sensitivities(network, WeightImportance.TAYLOR, 40, context)
    expected = gradients(network, torch.from_numpy(context.states), 1, greedy=True)
    assert list(found) == list(named_layers(network))
    for name, sensitivity in found.items():
        torch.testing.assert_close(sensitivity, expected[name], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("body", [NORMALIZED, TIED, MLPSpec(hidden=(8, 6))])
def test_obd_is_exact_for_a_single_action(body, make_context) -> None:
    """A random sign squared is 1."""
    network = build(body, actions=1)
    context = make_context("mlp" if isinstance(body, MLPSpec) else "conv", network, states=40)
    found = weight_sensitivities(network, WeightImportance.OBD, 40, context)
    expected = gradients(network, torch.from_numpy(context.states), 2, greedy=False)
    for name, sensitivity in found.items():
        torch.testing.assert_close(sensitivity.square(), expected[name], rtol=1e-4, atol=1e-10)


def test_obd_estimates_the_sum_over_all_actions(make_context) -> None:
    network = build(MLPSpec(hidden=(8, 6)), actions=4)
    context = make_context("mlp", network, states=2_000)
    found = weight_sensitivities(network, WeightImportance.OBD, 2_000, context)
    expected = gradients(network, torch.from_numpy(context.states), 2, greedy=False)
    for name, sensitivity in found.items():
        ratio = float(sensitivity.square().sum() / expected[name].sum())
        assert 0.9 < ratio < 1.1, name


def test_the_taylor_score_of_a_last_unit_is_what_its_removal_changes(make_context) -> None:
    """Q is linear in the last hidden layer, and there is one action only."""
    network = build(NORMALIZED, actions=1)
    context = make_context("conv", network, states=40)
    states = torch.from_numpy(context.states)
    scores = unit_scores(network, Importance.TAYLOR, 40, context)
    with torch.no_grad():
        whole = network(states)
        for unit, score in enumerate(scores[-1]):
            without = copy.deepcopy(network)
            without.head.weight[:, unit] = 0
            change = (whole - without(states)).abs().mean()
            assert float(score) == pytest.approx(float(change), rel=1e-3, abs=1e-7)


def test_the_taylor_score_of_a_channel_adds_up_over_its_positions_with_signs(make_context) -> None:
    network = build(NORMALIZED)
    context = make_context("conv", network, states=4)
    (score, *_) = unit_scores(network, Importance.TAYLOR, 4, context)
    total = torch.zeros(4)
    for state in torch.from_numpy(context.states):
        values = network.features[:3](network.prepare(state[None])).detach().requires_grad_()
        network.head(network.features[3:](values)).max().backward()
        total += (values * values.grad).sum(dim=(0, 2, 3)).abs().detach() / 4
    torch.testing.assert_close(score.float(), total, rtol=1e-4, atol=1e-8)


def test_weights_that_cancel_count_for_obd_and_not_for_taylor(make_context) -> None:
    """The units have weights (3, −3) and (1, 0) on inputs that are the same number."""
    network = build(MLPSpec(hidden=(2,)), actions=1)
    first = network.features[0]
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[3.0, -3.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]))
        first.bias.copy_(torch.tensor([0.01, 0.01]))
        network.head.weight.fill_(1.0)
    context = make_context("mlp", network, states=64)
    frames = context.calibration.frames
    frames[:, 1] = frames[:, 0]
    (taylor,) = unit_scores(network, Importance.TAYLOR, 64, context)
    (obd,) = unit_scores(network, Importance.OBD, 64, context)
    assert taylor[0] < 0.1 * taylor[1]
    assert obd[0] > 2 * obd[1]


def test_the_obd_score_of_a_unit_is_half_its_weights_curvature_times_their_squares(
    make_context,
) -> None:
    network = build(NORMALIZED)
    context, same = (make_context("conv", network, states=40) for _ in range(2))
    scores = unit_scores(network, Importance.OBD, 40, context)
    roots = weight_sensitivities(network, WeightImportance.OBD, 40, same)
    layers = named_layers(network)
    for name, score in zip(("conv1", "conv2", "dense1"), scores, strict=True):
        saliency = 0.5 * (roots[name] * layers[name].weight).square().flatten(1).sum(dim=1)
        torch.testing.assert_close(score.float(), saliency.detach(), rtol=1e-4, atol=1e-10)


def test_magnitude_and_norms_look_at_no_state() -> None:
    network = build(NORMALIZED)
    ones = weight_sensitivities(network, WeightImportance.MAGNITUDE, 8, None)
    assert all(bool((sensitivity == 1).all()) for sensitivity in ones.values())
    weight = network.features[0].weight.detach().flatten(1).double()
    for importance, order in ((Importance.L1, 1), (Importance.L2, 2)):
        scores = unit_scores(network, importance, 8, None)
        assert [len(score) for score in scores] == [4, 6, 7]
        torch.testing.assert_close(scores[0], torch.linalg.vector_norm(weight, ord=order, dim=1))


def test_bn_scale_is_the_size_of_gamma_and_the_l1_norm_of_dense_units() -> None:
    network = build(NORMALIZED)
    network.features[1].weight.data[2] *= -1
    scores = unit_scores(network, Importance.BN_SCALE, 8, None)
    torch.testing.assert_close(scores[0].float(), network.features[1].weight.detach().abs())
    torch.testing.assert_close(scores[1].float(), network.features[4].weight.detach())
    norms = network.features[7].weight.detach().abs().sum(dim=1)
    torch.testing.assert_close(scores[2].float(), norms)


@pytest.mark.parametrize(
    ("body", "received"),
    [
        (MLPSpec(hidden=(8,)), "a network without convolutions"),
        (
            ConvSpec(
                convolutions=(
                    ConvLayer(channels=4, kernel=3, batch_norm=True),
                    ConvLayer(channels=4, kernel=3),
                ),
                hidden=(),
            ),
            "conv2 without it",
        ),
    ],
)
def test_bn_scale_without_batch_normalization_is_refused(body, received: str) -> None:
    expected = "another criterion, since bn-scale needs convolutions with batch normalization"
    message = rf"^prune_channels\.importance: expected {expected}, received {received}$"
    with pytest.raises(InvalidInputError, match=message):
        unit_scores(build(body), Importance.BN_SCALE, 8, None)


def test_random_depends_on_the_seed_alone(make_context) -> None:
    network = build(NORMALIZED)

    def draw(seed: int) -> Tensor:
        context = make_context("conv", network, seed=seed)
        return torch.cat(unit_scores(network, Importance.RANDOM, 8, context))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_random_saliencies_of_weights_are_uniform_whatever_their_magnitude(make_context) -> None:
    network = build(NORMALIZED)
    found = weight_sensitivities(network, WeightImportance.RANDOM, 8, make_context("conv", network))
    for name, layer in named_layers(network).items():
        saliency = (found[name] * layer.weight.detach().abs()).flatten()
        assert float(saliency.min()) >= 0.0
        assert float(saliency.max()) <= 1.0
    large = named_layers(network)["dense1"].weight.detach().abs().flatten()
    saliency = found["dense1"].flatten() * large
    assert abs(float(torch.corrcoef(torch.stack([large, saliency]))[0, 1])) < 0.1


def test_only_so_many_states_are_used(make_context) -> None:
    network = build(NORMALIZED)
    context = make_context("conv", network, states=40)
    found = weight_sensitivities(network, WeightImportance.TAYLOR, 2, context)
    two = torch.from_numpy(context.states[[0, 39]])
    expected = gradients(network, two, 1, greedy=True)
    torch.testing.assert_close(found["conv1"], expected["conv1"], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("importance", [Importance.TAYLOR, Importance.OBD])
def test_the_network_stays_as_it_is_in_training_or_not(importance, make_context) -> None:
    network = build(NORMALIZED).train()
    before = save_network(network)
    context = make_context("conv", build(NORMALIZED))
    in_training = unit_scores(network, importance, 8, context)
    assert save_network(network) == before
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    again = make_context("conv", build(NORMALIZED))
    frozen = network.eval().requires_grad_(False)
    for one, other in zip(in_training, unit_scores(frozen, importance, 8, again), strict=True):
        assert torch.equal(one, other)
