from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from slimq.core.errors import InvalidInputError
from slimq.core.onnx_policy import OnnxPolicy
from slimq.networks.export import export_onnx
from slimq.networks.grids import LinearLevels
from slimq.networks.layers import ConvLayer, DenseLayer, ResidualLayer
from slimq.networks.qnetwork import QNetwork, count_parameters, named_layers
from slimq.networks.specification import ConvSpec, MLPSpec, QNetworkSpec
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.graph.model import to_bytes
from slimq_compression.passes import quantize_int8
from slimq_compression.passes.low_rank import Params, apply

SPEC = QNetworkSpec(
    body=ConvSpec(
        convolutions=(
            ConvLayer(channels=6, kernel=4, stride=2),
            ConvLayer(channels=8, kernel=3, padding=1, batch_norm=True),
        ),
        hidden=(20,),
    ),
    observation_shape=(2, 20, 16),
    observation_dtype="uint8",
    actions=3,
)


def make_network(spec: QNetworkSpec = SPEC) -> QNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = QNetwork(spec).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    tensor.data.uniform_(0.5, 1.5)
    return network


def cut(network: QNetwork, **params: object) -> QNetwork:
    return apply(network, Params(**params), None)  # type: ignore[arg-type]


def shapes(network: QNetwork) -> list[tuple[int, ...]]:
    return [tuple(layer.weight.shape) for layer in named_layers(network).values()]


def q_error(network: QNetwork, other: QNetwork) -> float:
    generator = np.random.default_rng(0)
    states = generator.integers(0, 256, (16, 2, 20, 16), dtype=np.uint8)
    return float(np.abs(TorchPolicy(network)(states) - TorchPolicy(other)(states)).max())


def test_a_dense_layer_of_full_rank_gives_the_parents_q_values() -> None:
    parent = make_network()
    child = cut(parent, ranks={"dense1": 20})
    assert shapes(child)[2:] == [(20, 504), (20, 20), (3, 20)]
    assert child.spec.body.hidden == (DenseLayer(width=20, activation=False), 20)
    assert q_error(parent, child) < 1e-4


def test_convolutions_of_low_rank_give_the_parents_q_values_at_that_rank() -> None:
    """With stride, padding and batch normalization."""
    parent = make_network()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer, rank in ((parent.features[0], (1, 3)), (parent.features[2], (2, 3))):
            outputs, inputs, *kernel = layer.weight.shape
            core = torch.randn(rank[1], rank[0], *kernel, generator=generator)
            outer = torch.randn(outputs, rank[1], generator=generator)
            inner = torch.randn(inputs, rank[0], generator=generator)
            layer.weight.copy_(0.1 * torch.einsum("or,rshw,is->oihw", outer, core, inner))
    child = cut(parent, ranks={"conv1": (1, 3), "conv2": (2, 3)})
    assert shapes(child)[:3] == [(1, 2, 1, 1), (3, 1, 4, 4), (6, 3, 1, 1)]
    assert shapes(child)[3:6] == [(2, 6, 1, 1), (3, 2, 3, 3), (8, 3, 1, 1)]
    assert q_error(parent, child) < 1e-4
    assert q_error(parent, cut(parent, ranks={"conv1": (1, 2), "conv2": (2, 3)})) > 1e-3


def test_normalization_and_activation_follow_the_last_layer_of_a_cut_convolution() -> None:
    body = cut(make_network(), ranks={"conv2": (3, 4)}).spec.body
    assert isinstance(body, ConvSpec)
    assert body.convolutions[1:] == (
        ConvLayer(channels=3, kernel=1, activation=False),
        ConvLayer(channels=4, kernel=3, padding=1, activation=False),
        ConvLayer(channels=8, kernel=1, batch_norm=True),
    )


def test_the_error_falls_as_the_energy_rises_and_is_nothing_at_all_of_it() -> None:
    parent = make_network()
    errors = [q_error(parent, cut(parent, energy=energy)) for energy in (0.3, 0.6, 0.9, 0.99)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 10 * errors[-1]
    whole = cut(parent, energy=1.0)
    assert whole.spec == parent.spec
    assert q_error(parent, whole) == 0.0


def test_the_rank_is_the_least_that_keeps_the_energy() -> None:
    parent = make_network()
    values = torch.linalg.svdvals(parent.features[6].weight.detach().double()).square()
    for energy in (0.1, 0.5, 0.8):
        child = cut(parent, energy=energy, convolutions=False)
        rank = shapes(child)[2][0]
        assert float(values[:rank].sum() / values.sum()) >= energy
        assert rank == 1 or float(values[: rank - 1].sum() / values.sum()) < energy


def test_without_convolutions_only_dense_layers_are_cut() -> None:
    parent = make_network()
    child = cut(parent, energy=0.5, convolutions=False)
    assert shapes(child)[:2] == shapes(parent)[:2]
    assert len(shapes(child)) == len(shapes(parent)) + 1


@pytest.mark.parametrize("convolutions", [True, False])
def test_a_budget_is_kept_and_used(convolutions: bool) -> None:
    """One more rank of the dense layer takes 525 parameters."""
    parent = make_network()
    counts = []
    for budget in (4_000, 6_000, 8_000):
        child = cut(parent, parameters=budget, convolutions=convolutions)
        counts.append(count_parameters(child))
        assert budget - 1_000 < counts[-1] <= budget
    assert counts == sorted(counts)


def test_a_budget_that_holds_the_whole_network_changes_nothing() -> None:
    parent = make_network()
    assert cut(parent, parameters=count_parameters(parent)).spec == parent.spec


def test_a_budget_below_rank_one_is_refused_with_the_least_one() -> None:
    message = r"^low_rank\.parameters: expected at least \d+ \(all ranks 1\), received 10$"
    with pytest.raises(InvalidInputError, match=message) as caught:
        cut(make_network(), parameters=10)
    least = int(caught.value.expected.split()[2])
    assert count_parameters(cut(make_network(), parameters=least)) == least


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (
            {"conv3": (1, 1)},
            "low_rank.ranks.conv3: expected one of the layers conv1, conv2, dense1, received conv3",
        ),
        ({"head": 1}, "low_rank.ranks.head: expected one of the layers conv1, conv2, dense1"),
        ({"dense1": (2, 2)}, "low_rank.ranks.dense1: expected one rank, received (2, 2)"),
        ({"conv1": 2}, "low_rank.ranks.conv1: expected two ranks, [input, output], received 2"),
        ({"dense1": 21}, "low_rank.ranks.dense1: expected at most 20, received 21"),
        (
            {"conv2": (6, 9)},
            "low_rank.ranks.conv2: expected at most 6 and 8, neither above 9 times the other, "
            "received (6, 9)",
        ),
    ],
)
def test_a_rank_that_no_layer_has_is_refused_by_name(ranks: dict, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        cut(make_network(), ranks=ranks)
    assert str(caught.value).startswith(message)


def test_a_rank_beyond_what_the_other_one_leaves_is_refused() -> None:
    body = ConvSpec(convolutions=(ConvLayer(channels=8, kernel=1),), hidden=())
    network = make_network(SPEC.model_copy(update={"body": body}))
    with pytest.raises(InvalidInputError, match="neither above 1 times the other"):
        cut(network, ranks={"conv1": (1, 2)})


def test_a_budget_may_be_a_share_of_the_given_networks_parameters() -> None:
    parent = make_network()
    half = count_parameters(parent) // 2
    assert cut(parent, parameters="1/2").spec == cut(parent, parameters=half).spec
    assert cut(parent, parameters=0.5).spec == cut(parent, parameters=half).spec
    everything = count_parameters(parent)
    message = rf"^low_rank\.parameters: expected at least \d+ .*\(1/900 of {everything}\)$"
    with pytest.raises(InvalidInputError, match=message):
        cut(parent, parameters="1/900")


@pytest.mark.parametrize("values", [{}, {"energy": 0.5, "parameters": 100}])
def test_exactly_one_of_energy_ranks_and_parameters_is_needed(values: dict) -> None:
    with pytest.raises(ValueError, match="exactly one of energy, ranks and parameters"):
        Params(**values)


def test_a_network_that_would_get_too_many_layers_is_refused() -> None:
    spec = QNetworkSpec(
        body=MLPSpec(hidden=(4,) * 9),
        observation_shape=(4,),
        observation_dtype="float32",
        actions=2,
    )
    message = (
        r"^low_rank\.network: expected a network within the limit on layers .*at most 16 items"
    )
    with pytest.raises(InvalidInputError, match=message):
        cut(make_network(spec), ranks={f"dense{index}": 1 for index in range(1, 10)})


def test_residual_blocks_are_refused() -> None:
    block = ResidualLayer(layers=(ConvLayer(channels=2, kernel=3, padding=1),))
    body = ConvSpec(convolutions=(block,), hidden=())
    message = r"^low_rank\.network: .*received convolutions\[0\]: a residual block$"
    with pytest.raises(InvalidInputError, match=message):
        cut(make_network(SPEC.model_copy(update={"body": body})), energy=0.5)


def test_grids_and_ranges_do_not_outlive_the_layers_that_they_were_for() -> None:
    parent = make_network()
    parent.grids["conv1"] = (LinearLevels(7),)
    parent.ranges["conv1.relu"] = (0.0, 1.0)
    child = cut(parent, energy=0.5)
    assert (child.grids, child.ranges) == ({}, {})


def test_what_is_cut_can_be_quantized(make_network, make_context) -> None:
    """Layers without an activation between them, whose values are of both signs."""
    parent = make_network("conv")
    context = make_context("conv", parent)
    child = cut(parent, ranks={"conv2": (3, 4), "dense1": 8})
    model = onnx.load_model_from_string(export_onnx(child))
    small = quantize_int8.apply(model, quantize_int8.Params(), context)
    q_values = OnnxPolicy(to_bytes(small), context.observation, 3)(context.states)
    whole = TorchPolicy(child)(context.states)
    assert np.abs(q_values - whole).max() < 0.1 * np.ptp(whole)
