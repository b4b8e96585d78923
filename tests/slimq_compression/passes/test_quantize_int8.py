from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from slimq.core.errors import InvalidInputError
from slimq.core.onnx_policy import OnnxPolicy
from slimq.networks.export import export_onnx
from slimq.networks.grids import LinearLevels
from slimq.networks.qnetwork import QNetwork, named_layers
from slimq.networks.specification import QNetworkSpec
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.graph.model import run_tensors, to_bytes
from slimq_compression.graph.weights import decoded_weights, describe_precision
from slimq_compression.passes import fold
from slimq_compression.passes.quantize_int8 import Activations, Params, apply


def quantize(network: Any, context: Any, **values: Any) -> onnx.ModelProto:
    model = onnx.load_model_from_string(export_onnx(network))
    return apply(model, Params(**values), context)


def test_the_pong_network_fuses_to_integer_kernels_at_a_quarter_of_the_bytes(
    make_network, make_context, operators
) -> None:
    network = make_network("nature")
    model = quantize(network, make_context("nature", network, states=8))
    ran = operators(model)
    assert ran["QLinearConv"] == 3
    assert ran["QGemm"] == 2
    assert set(ran) <= {"QLinearConv", "QGemm", "Transpose", "Reshape"}
    assert len(to_bytes(model)) <= len(export_onnx(network)) / 3.9


def test_a_dense_network_fuses_to_integer_kernels(make_network, make_context, operators) -> None:
    network = make_network("mlp")
    context = make_context("mlp", network)
    ran = operators(quantize(network, context, quantize_input=True))
    assert ran == {"QuantizeLinear": 1, "QGemm": 3}
    ran = operators(quantize(network, context))
    assert ran["QGemm"] == 2


def test_float_observations_of_different_ranges_are_not_rounded_to_one_scale(
    make_network, make_context
) -> None:
    network = make_network("mlp")
    with torch.no_grad():
        network.features[0].weight[:, 2] *= 100
    context = make_context("mlp", network)
    context.calibration.frames[:, 2] /= 100
    full = TorchPolicy(network)(context.states)

    def error(**values: Any) -> float:
        model = to_bytes(quantize(network, context, portable=False, **values))
        return float(np.abs(OnnxPolicy(model, context.observation, 2)(context.states) - full).max())

    assert error() < 0.25 * error(quantize_input=True)


def test_uint8_frames_go_straight_into_the_first_convolution(make_network, make_context) -> None:
    network = make_network("conv")
    model = quantize(network, make_context("conv", network))
    (reader,) = (node for node in model.graph.node if "observation" in node.input)
    assert reader.op_type == "DequantizeLinear"
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert stored[reader.input[1]] == np.float32(1 / 255)
    assert stored[reader.input[2]] == 0
    assert not {"Cast", "Mul"} & {node.op_type for node in model.graph.node}


def test_q_values_are_not_rounded_to_256_levels(make_network, make_context) -> None:
    network = make_network("mlp")
    context = make_context("mlp", network, states=600)
    model = quantize(network, context)
    q_values = OnnxPolicy(to_bytes(model), context.observation, 2)(context.states)
    assert len(np.unique(q_values[:, 0])) > 400


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize("activations", list(Activations))
@pytest.mark.parametrize("per_channel", [True, False])
def test_q_values_stay_near_the_full_networks(
    make_network, make_context, kind: str, activations: Activations, per_channel: bool
) -> None:
    network = make_network(kind)
    context = make_context(kind, network)
    model = quantize(network, context, activations=activations, per_channel=per_channel)
    full = TorchPolicy(network)(context.states)
    q_values = OnnxPolicy(to_bytes(model), context.observation, network.spec.actions)(
        context.states
    )
    assert np.abs(q_values - full).max() < 0.05 * np.ptp(full)


def test_bias_correction_takes_back_the_mean_error_of_every_channel(
    make_network, make_context
) -> None:
    network = make_network("conv")
    context = make_context("conv", network)
    full = onnx.load_model_from_string(export_onnx(network))

    def mean_error(**values: Any) -> float:
        """Largest over the channels of the head."""
        model = quantize(network, context, **values)
        found, wanted = (
            np.concatenate([v["q_values"] for v in run_tensors(m, ["q_values"], context.states)])
            for m in (model, full)
        )
        return float(np.abs((found - wanted).mean(axis=0)).max())

    assert mean_error() < 0.1 * mean_error(bias_correction=False)


def test_the_first_bias_takes_back_the_rounding_of_its_weights_times_the_mean_input(
    make_network, make_context
) -> None:
    """Constant frames: the error of a channel is (rounded − full weights) · input, exactly."""
    network = make_network("conv")
    context = make_context("conv", network)
    flat = np.full_like(context.calibration.frames, 200)
    object.__setattr__(context.calibration, "frames", flat)
    rounded = decoded_weights(quantize(network, context))
    names = {name.split(".")[0]: name for name in rounded if name.startswith("conv1.weight")}
    weights = network.features[0].weight.detach().numpy()
    shift = (rounded[names["conv1"]] - weights).sum(axis=(1, 2, 3)) * (200 / 255)
    expected = network.features[0].bias.detach().numpy() - shift
    np.testing.assert_allclose(rounded["conv1.bias"], expected, atol=1e-5)


def test_weights_on_their_grid_are_encoded_without_loss(make_network, make_context) -> None:
    """The hand-over rule: 127 levels either side, and the largest of each row is in use."""
    network = make_network("mlp")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in [*network.features[::2], network.head]:
            codes = torch.randint(-127, 128, layer.weight.shape, generator=generator)
            codes[:, 0] = 127
            layer.weight.copy_(codes * 2.0**-8)
    context = make_context("mlp", network)
    model = quantize(network, context, portable=False, bias_correction=False)
    decoded = [w for w in decoded_weights(model).values() if w.ndim == 2]
    wanted = [layer.weight.detach().numpy() for layer in [*network.features[::2], network.head]]
    for weight, original in zip(decoded, wanted, strict=True):
        np.testing.assert_allclose(weight, original, rtol=1e-6)


def test_the_precision_is_read_off_the_stored_weights(make_network, make_context) -> None:
    network = make_network("mlp")
    assert describe_precision(quantize(network, make_context("mlp", network))) == "int8"
    assert describe_precision(onnx.load_model_from_string(export_onnx(network))) == "fp32"


def codes_of(model: onnx.ModelProto) -> dict[str, Any]:
    return {
        t.name.split(".")[0]: numpy_helper.to_array(t)
        for t in model.graph.initializer
        if t.name.endswith("weight_quantized")
    }


@pytest.mark.parametrize(("portable", "highest"), [(True, 64), (False, 127)])
@pytest.mark.parametrize("per_channel", [True, False])
def test_portable_weights_have_seven_bits(
    make_network, make_context, portable: bool, highest: int, per_channel: bool
) -> None:
    network = make_network("conv")
    context = make_context("conv", network)
    model = quantize(network, context, portable=portable, per_channel=per_channel)
    for codes in codes_of(model).values():
        assert np.abs(codes.astype(int)).max() == highest


def test_portable_sums_of_two_products_fit_16_bits_and_full_ones_do_not() -> None:
    """What vpmaddubsw adds: two products of an unsigned and a signed byte."""
    limit = np.iinfo(np.int16).max
    assert 2 * 255 * 64 <= limit < 2 * 255 * 127


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize("highest", [64, 127])
@pytest.mark.parametrize("fit", [True, False])
def test_weights_on_trained_levels_are_encoded_bit_for_bit(
    make_network, make_context, kind: str, highest: int, fit: bool
) -> None:
    network = make_network(kind)
    layers = named_layers(network)
    with torch.no_grad():
        for layer in layers.values():
            grid = LinearLevels(highest, fit=fit)
            grid.advance(layer.weight, 0.0)
            layer.weight.copy_(grid.project(layer.weight))
    context = make_context(kind, network)
    model = quantize(network, context, portable=highest == 64)
    decoded = {n.split(".")[0]: w for n, w in decoded_weights(model).items() if w.ndim > 1}
    for name, layer in layers.items():
        np.testing.assert_array_equal(decoded[name], layer.weight.detach().numpy())


def test_only_named_layers_become_codes(make_network, make_context, operators) -> None:
    network = make_network("conv")
    context = make_context("conv", network)
    model = quantize(network, context, layers=("conv1", "conv2"))
    assert set(codes_of(model)) == {"conv1", "conv2"}
    assert describe_precision(model) == "fp32+int8"
    ran = operators(model)
    assert (ran["QLinearConv"], ran["QGemm"]) == (2, 0)
    full = TorchPolicy(network)(context.states)
    found = OnnxPolicy(to_bytes(model), context.observation, 3)(context.states)
    assert np.abs(found - full).max() < 0.05 * np.ptp(full)


def test_the_first_layer_may_stay_in_floats(make_network, make_context) -> None:
    for kind, layers in (("conv", ("conv2", "head")), ("mlp", ("dense2", "head"))):
        network = make_network(kind)
        context = make_context(kind, network)
        model = quantize(network, context, layers=layers)
        assert set(codes_of(model)) == set(layers)
        full = TorchPolicy(network)(context.states)
        policy = OnnxPolicy(to_bytes(model), context.observation, network.spec.actions)
        assert np.abs(policy(context.states) - full).max() < 0.05 * np.ptp(full)


def test_an_unknown_layer_is_refused_by_listing_what_there_is(make_network, make_context) -> None:
    network = make_network("conv")
    with pytest.raises(
        InvalidInputError, match=r"\(conv1, conv2, dense1, head\), received 'dense2'"
    ) as caught:
        quantize(network, make_context("conv", network), layers=("conv1", "dense2"))
    assert caught.value.field == "quantize_int8.layers"


def test_frames_whose_scale_is_folded_go_in_as_codes_of_scale_one(
    make_network, make_context
) -> None:
    network = make_network("conv")
    context = make_context("conv", network)
    folded = fold.apply(onnx.load_model_from_string(export_onnx(network)), fold.Params(), context)
    model = apply(folded, Params(), context)
    (reader,) = (node for node in model.graph.node if "observation" in node.input)
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert (reader.op_type, stored[reader.input[1]], stored[reader.input[2]]) == (
        "DequantizeLinear",
        1.0,
        0,
    )
    found, unfolded = (
        OnnxPolicy(to_bytes(m), context.observation, 3)(context.states)
        for m in (model, quantize(network, context))
    )
    np.testing.assert_allclose(found, unfolded, atol=0.01 * float(np.ptp(unfolded)))


BLOCKS = QNetworkSpec.model_validate(
    {
        "body": {
            "kind": "conv",
            "convolutions": [
                {"channels": 8, "kernel": 4, "stride": 2, "batch_norm": True},
                {
                    "kind": "residual",
                    "layers": [
                        {"channels": 16, "kernel": 1, "groups": 2},
                        {"kind": "shuffle", "groups": 2},
                        {"channels": 16, "kernel": 3, "padding": 1, "groups": 16},
                        {"channels": 8, "kernel": 1, "activation": False},
                    ],
                },
            ],
            "hidden": [{"width": 12, "activation": False}, 20],
        },
        "observation_shape": (2, 20, 16),
        "observation_dtype": "uint8",
        "actions": 3,
    }
)


@pytest.fixture
def block_network() -> QNetwork:
    """Batch normalization, a residual block, a channel shuffle, a depthwise layer, a bottleneck."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return QNetwork(BLOCKS).eval()


@pytest.mark.parametrize("activations", list(Activations))
def test_sums_and_shuffles_are_quantized_too(
    block_network, make_context, operators, activations: Activations
) -> None:
    context = make_context("conv", block_network)
    given = onnx.load_model_from_string(export_onnx(block_network))
    folded = fold.apply(given, fold.Params(input_scale=False), context)
    model = apply(folded, Params(activations=activations), context)
    full = TorchPolicy(block_network)(context.states)
    found = OnnxPolicy(to_bytes(model), context.observation, 3)(context.states)
    assert np.abs(found - full).max() < 0.05 * np.ptp(full)
    if activations is Activations.UINT8:
        ran = operators(model)
        assert (ran["QLinearAdd"], ran["QLinearConv"], ran["QGemm"]) == (1, 4, 3)
        assert not {"Conv", "Add", "Gemm"} & set(ran)


def test_batch_normalization_has_to_be_folded_first(block_network, make_context) -> None:
    with pytest.raises(
        InvalidInputError, match=r"put the pass fold before.*'conv1.norm'"
    ) as caught:
        quantize(block_network, make_context("conv", block_network))
    assert caught.value.field == "quantize_int8.graph"


def scale_behind(model: onnx.ModelProto, layer: str) -> float:
    """Of the codes of a layer's activation."""
    (node,) = (n for n in model.graph.node if n.name == layer)
    (quantizer,) = (n for n in model.graph.node if node.output[0] in n.input)
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return float(stored[quantizer.input[1]])


def test_learned_ranges_take_the_place_of_calibrated_ones(make_network, make_context) -> None:
    network = make_network("conv")
    network.ranges = {"conv1.relu": (0.0, 0.51)}
    context = make_context("conv", network)
    learned = quantize(network, context, calibration="learned")
    calibrated = quantize(network, context)
    assert scale_behind(learned, "conv1") == pytest.approx(0.51 / 255)
    assert scale_behind(calibrated, "conv1") != pytest.approx(0.51 / 255)
    assert scale_behind(learned, "conv2") == scale_behind(calibrated, "conv2")


def test_learned_ranges_are_refused_where_there_are_none(make_network, make_context) -> None:
    network = make_network("conv")
    with pytest.raises(InvalidInputError, match="trained with quantized activations") as caught:
        quantize(network, make_context("conv", network), calibration="learned")
    assert caught.value.field == "quantize_int8.calibration"


def test_a_calibration_that_clips_gives_finer_codes(make_network, make_context) -> None:
    network = make_network("conv")
    context = make_context("conv", network)
    whole = scale_behind(quantize(network, context), "conv1")
    for values in ({"calibration": "percentile", "percentile": 99.0}, {"calibration": "kl"}):
        assert scale_behind(quantize(network, context, **values), "conv1") < whole


def test_a_windows_part_of_the_frames_goes_in_as_codes(make_context, make_states) -> None:
    spec = QNetworkSpec.model_validate(
        {
            "body": {
                "kind": "conv",
                "window": {"rows": [2, 18]},
                "convolutions": [{"channels": 6, "kernel": 4, "stride": 2}],
                "hidden": [20],
            },
            "observation_shape": (2, 20, 16),
            "observation_dtype": "uint8",
            "actions": 3,
        }
    )
    torch.manual_seed(0)
    network = QNetwork(spec).eval()
    context = make_context("conv", network)
    model = onnx.load_model_from_string(export_onnx(network))
    quantized = apply(model, Params(), context)
    operators = [node.op_type for node in quantized.graph.node]
    assert "Cast" not in operators
    assert operators.count("Slice") == 1
    states = make_states("conv", 50, seed=3)
    ours = OnnxPolicy(to_bytes(quantized), context.observation, 3)
    assert np.abs(ours(states) - TorchPolicy(network)(states)).mean() < 0.02
