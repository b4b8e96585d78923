"""Networks of every kind: the exported graph computes the same, and so does a restored one."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
import torch
from pydantic import ValidationError

from network_kinds import KINDS, PARTS, draw_observations, layout_of, make_kind
from slimq.core.errors import InvalidInputError
from slimq.core.observation import ObservationPart
from slimq.core.onnx_policy import OnnxPolicy
from slimq.networks.checkpoint import load_network, save_network
from slimq.networks.export import export_onnx
from slimq.networks.graph_counts import count_graph
from slimq.networks.heads import ACTIVATIONS
from slimq.networks.inputs import Part
from slimq.networks.layers import ConvLayer, DenseLayer
from slimq.networks.qnetwork import (
    MixedPrecision,
    QNetwork,
    activation_names,
    count_macs,
    named_layers,
)
from slimq.networks.specification import (
    ConvSpec,
    HeadSpec,
    MLPSpec,
    MultiInputSpec,
    QNetworkSpec,
    channel_axis,
)
from slimq.networks.torch_policy import TorchPolicy

every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@pytest.mark.parametrize("opset", [17, 21, 25])
def test_the_graph_gives_the_networks_q_values(kind: str, opset: int) -> None:
    network, observations = make_kind(kind), draw_observations(kind, 5)
    if opset == 17 and network.spec.body.activation == "gelu":
        with pytest.raises(InvalidInputError, match="at least 20 for a network with gelu"):
            export_onnx(network, opset)
        return
    policy = OnnxPolicy(export_onnx(network, opset), layout_of(kind), network.spec.actions)
    expected = TorchPolicy(network)(observations)
    np.testing.assert_allclose(policy(observations), expected, rtol=1e-5, atol=1e-5)
    assert np.ptp(expected) > 0


@every_kind
def test_a_checkpoint_restores_the_network(kind: str) -> None:
    network, observations = make_kind(kind), draw_observations(kind, 5)
    restored = load_network(save_network(network))
    assert restored.spec == network.spec
    expected = TorchPolicy(network)(observations)
    np.testing.assert_array_equal(TorchPolicy(restored)(observations), expected)


@every_kind
def test_mixed_precision_stays_near(kind: str) -> None:
    network, observations = make_kind(kind), draw_observations(kind, 5)
    expected = TorchPolicy(network)(observations)
    mixed = TorchPolicy(MixedPrecision(network))(observations)
    assert np.abs(mixed - expected).max() < 0.03 * np.abs(expected).max()


@every_kind
def test_layers_and_activations_have_the_same_names_in_the_graph(kind: str) -> None:
    network = make_kind(kind)
    graph = onnx.load_model_from_string(export_onnx(network)).graph
    weighted = [node.name for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert weighted == list(named_layers(network))
    outputs = {name for node in graph.node for name in node.output}
    assert set(activation_names(network)) <= outputs


@every_kind
def test_multiply_accumulates_and_weights_agree_with_the_graph(kind: str) -> None:
    network = make_kind(kind)
    model = onnx.load_model_from_string(export_onnx(network))
    layers = named_layers(network).values()
    weights = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
    counted, nonzero, macs = count_graph(model)
    assert (counted, macs) == (weights, count_macs(network.spec))
    assert 0.9 * weights < nonzero <= weights


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_exported_as_torch_computes_it(activation: str) -> None:
    spec = KINDS["layer-norm"].model_copy(
        update={"body": MLPSpec(hidden=(16, 16), activation=activation)}
    )
    torch.manual_seed(0)
    network = QNetwork(spec).eval()
    observations = 4.0 * draw_observations("layer-norm", 64)
    policy = OnnxPolicy(export_onnx(network), layout_of("layer-norm"), spec.actions)
    np.testing.assert_allclose(
        policy(observations), TorchPolicy(network)(observations), rtol=1e-5, atol=1e-5
    )


def test_the_dueling_head_is_equation_9_of_wang_et_al() -> None:
    network = make_kind("dueling")
    hidden = torch.randn(6, network.spec.flat_width)
    value = network.head.value(hidden)
    advantage = network.head.advantage(hidden)
    expected = value + (advantage - advantage.mean(dim=1, keepdim=True))
    torch.testing.assert_close(network.head(hidden), expected)
    torch.testing.assert_close(network.head(hidden).mean(dim=1, keepdim=True), value)


def test_the_categorical_head_is_the_mean_over_its_atoms() -> None:
    network = make_kind("categorical")
    hidden = torch.randn(6, 8)
    logits = network.head.advantage(hidden).view(6, 2, 11)
    atoms = torch.tensor([-2.0 + 0.7 * index for index in range(11)])
    expected = (torch.softmax(logits, dim=2) * atoms).sum(dim=2)
    torch.testing.assert_close(network.head(hidden), expected)


def test_categories_are_one_hot_codes_in_order() -> None:
    network = make_kind("several-inputs")
    flat = torch.from_numpy(draw_observations("several-inputs", 3))
    codes = network.features[0].branches[1](flat)
    first, second = flat[:, 189].long() + 1, flat[:, 190].long() - 5
    expected = torch.cat([torch.eye(4)[first], torch.eye(300)[second]], dim=1)
    assert torch.equal(codes, expected)


def test_normalization_is_that_of_all_observations_seen() -> None:
    network = make_kind("normalized")
    fresh = QNetwork(network.spec)
    seen = torch.randn(1_000, 3, 2, dtype=torch.float64) * 7.0 + 100.0
    for batch in seen.split(37):
        fresh.normalize.update(batch.float())
    torch.testing.assert_close(fresh.normalize.mean, seen.mean(0).float(), rtol=1e-4, atol=1e-3)
    variance = seen.var(0, unbiased=False).float()
    torch.testing.assert_close(fresh.normalize.variance, variance, rtol=1e-2, atol=1e-2)


def test_images_with_the_channels_last_are_the_same_as_transposed_ones() -> None:
    last = make_kind("channels-last")
    body = last.spec.body.model_copy(update={"channels": "first"})
    first = QNetwork(
        last.spec.model_copy(update={"body": body, "observation_shape": (4, 10, 9)})
    ).eval()
    first.load_state_dict(last.state_dict())
    images = draw_observations("channels-last", 4)
    transposed = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    expected = TorchPolicy(last)(images)
    np.testing.assert_allclose(TorchPolicy(first)(transposed), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((4, 84, 84), "first"),
        ((84, 84, 3), "last"),
        ((10, 10, 6), "last"),
        ((7, 7, 3), "last"),
        ((10, 10, 10), None),
        ((4, 84, 4), None),
        ((8, 5, 6), None),
        ((3, 3, 64), None),
        ((64, 3, 64), None),
        ((3, 64, 3), None),
        ((84, 84), None),
    ],
)
def test_the_channels_are_fewer_than_rows_and_columns(shape, axis) -> None:
    assert channel_axis(shape) == axis


CONV = ConvSpec(convolutions=(ConvLayer(channels=4, kernel=3),), hidden=())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"body": CONV}, "a conv network takes one array"),
        (
            {"body": MultiInputSpec(encoders={"imge": CONV}, hidden=())},
            "encoders: the observation has no part 'imge', but image, position, speed",
        ),
        (
            {"body": MultiInputSpec(encoders={"speed": CONV}, hidden=())},
            "encoders.speed: a conv network takes",
        ),
        (
            {
                "body": MultiInputSpec(
                    encoders={"image": CONV.model_copy(update={"background": 3})}, hidden=()
                )
            },
            "encoders.image.background: expected 0",
        ),
        ({"divisors": {"imge": 2.0}}, "divisors: the observation has no part 'imge'"),
        ({"normalization": {"clip": 1.0}}, "normalization: expected float32 observations"),
        ({"observation_shape": (3,)}, "the parts have 194 elements"),
    ],
)
def test_a_specification_that_does_not_fit_its_parts_is_refused(changes, problem: str) -> None:
    spec = KINDS["several-inputs"]
    assert spec.observation_parts == PARTS
    with pytest.raises(ValidationError, match=re.escape(problem)):
        QNetworkSpec.model_validate({**dict(spec), **changes})


def test_streams_of_their_own_and_two_normalizations_are_refused() -> None:
    with pytest.raises(ValidationError, match="hidden: expected none without dueling"):
        HeadSpec(hidden=(4,))
    with pytest.raises(ValidationError, match="batch_norm or layer_norm, not both"):
        ConvLayer(channels=2, kernel=1, batch_norm=True, layer_norm=True)
    assert DenseLayer(width=2, layer_norm=True).layer_norm


def test_each_code_of_a_part_stands_for_one_value_of_one_element() -> None:
    part = Part(ObservationPart(name="m", shape=(2,), categories=(3, 2), start=(2**24 - 2, -1)), 4)
    flat = torch.zeros(1, 6, dtype=torch.int32)
    flat[0, 4:] = torch.tensor([2**24, -1])
    assert part.columns.tolist() == [4, 4, 4, 5, 5]
    assert part(flat).tolist() == [[0.0, 0.0, 1.0, 1.0, 0.0]]
