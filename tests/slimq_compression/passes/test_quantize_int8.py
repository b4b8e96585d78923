from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from slimq.core.onnx_policy import OnnxPolicy
from slimq.networks.export import export_onnx
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.graph import decoded_weights, describe_precision, run_tensors, to_bytes
from slimq_compression.passes.quantize_int8 import Activations, Params, apply


def quantize(network: Any, context: Any, **values: Any) -> onnx.ModelProto:
    model = onnx.load_model_from_string(export_onnx(network))
    return apply(model, Params(**values), context)


def operators(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """What ONNX Runtime really runs."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)


def test_the_pong_network_fuses_to_integer_kernels_at_a_quarter_of_the_bytes(
    make_network, make_context, tmp_path: Path
) -> None:
    network = make_network("nature")
    model = quantize(network, make_context("nature", network, states=8))
    ran = operators(model, tmp_path)
    assert ran["QLinearConv"] == 3
    assert ran["QGemm"] == 2
    assert set(ran) <= {"QLinearConv", "QGemm", "Transpose", "Reshape"}
    assert len(to_bytes(model)) <= len(export_onnx(network)) / 3.9


def test_a_dense_network_fuses_to_integer_kernels(make_network, make_context, tmp_path) -> None:
    network = make_network("mlp")
    context = make_context("mlp", network)
    ran = operators(quantize(network, context, quantize_input=True), tmp_path)
    assert ran == {"QuantizeLinear": 1, "QGemm": 3}
    ran = operators(quantize(network, context), tmp_path)
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
        model = to_bytes(quantize(network, context, **values))
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
    model = quantize(network, make_context("mlp", network), bias_correction=False)
    decoded = [w for w in decoded_weights(model).values() if w.ndim == 2]
    wanted = [layer.weight.detach().numpy() for layer in [*network.features[::2], network.head]]
    for weight, original in zip(decoded, wanted, strict=True):
        np.testing.assert_allclose(weight, original, rtol=1e-6)


def test_the_precision_is_read_off_the_stored_weights(make_network, make_context) -> None:
    network = make_network("mlp")
    assert describe_precision(quantize(network, make_context("mlp", network))) == "int8"
    assert describe_precision(onnx.load_model_from_string(export_onnx(network))) == "fp32"
