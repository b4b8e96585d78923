from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch

from slimq.core.errors import InvalidInputError
from slimq.core.onnx_policy import OnnxPolicy
from slimq.networks.export import export_onnx
from slimq.networks.grids import LinearLevels
from slimq.networks.qnetwork import count_parameters
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.graph.model import run_tensors, to_bytes
from slimq_compression.graph.weights import count_weights, decoded_weights, describe_precision
from slimq_compression.passes import quantize_int8
from slimq_compression.passes.quantize_int4 import BLOCK_SIZES, Params, apply


def load(network: Any) -> onnx.ModelProto:
    return onnx.load_model_from_string(export_onnx(network))


def quantize(network: Any, context: Any, **values: Any) -> onnx.ModelProto:
    return apply(load(network), Params(**values), context)


def put_on_levels(network: Any, block: int | None) -> np.ndarray:
    """The weights of the second dense layer, 256 inputs wide, on 4-bit levels."""
    layer, grid = network.features[2], LinearLevels(7, block=block)
    with torch.no_grad():
        grid.advance(layer.weight, 0.0)
        layer.weight.copy_(grid.project(layer.weight))
    weights: np.ndarray = layer.weight.detach().numpy()
    return weights


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_what_is_computed_is_what_is_decoded(make_network, make_context, block_size: int) -> None:
    """Activations are rounded to 8 bits on the way, nothing else."""
    network = make_network("conv")
    context = make_context("conv", network)
    model = quantize(network, context, block_size=block_size, smallest=8, bias_correction=False)
    with torch.no_grad():
        network.features[-2].weight.copy_(
            torch.from_numpy(decoded_weights(model)["dense1.codes"].copy())
        )
    wanted = TorchPolicy(network)(context.states)
    found = OnnxPolicy(to_bytes(model), context.observation, 3)(context.states)
    np.testing.assert_allclose(found, wanted, atol=0.01 * float(np.ptp(wanted)))


def test_weights_stay_near_the_full_ones(make_network, make_context) -> None:
    network = make_network("conv")
    model = quantize(network, make_context("conv", network), smallest=8, block_size=16)
    full = network.features[-2].weight.detach().numpy()
    error = decoded_weights(model)["dense1.codes"] - full
    assert np.sqrt(np.square(error).mean()) < 0.1 * full.std()


def test_the_nature_network_falls_below_a_fifth_with_int8_convolutions(
    make_network, make_context
) -> None:
    network = make_network("nature")
    context = make_context("nature", network, states=4)
    layers = ("conv1", "conv2", "conv3")
    model = quantize_int8.apply(
        load(network), quantize_int8.Params(layers=layers, bias_correction=False), context
    )
    model = apply(model, Params(bias_correction=False), context)
    assert describe_precision(model) == "fp32+int4+int8"
    assert count_weights(model)[0] == count_parameters(network)
    assert len(to_bytes(model)) <= len(export_onnx(network)) / 6
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert (kinds["dense1"], kinds["head"]) == ("MatMulNBits", "Gemm")


def test_int8_may_come_after_int4(make_network, make_context) -> None:
    network = make_network("conv")
    context = make_context("conv", network)
    model = quantize(network, context, smallest=20)
    model = quantize_int8.apply(model, quantize_int8.Params(), context)
    assert describe_precision(model) == "int4+int8"
    full = TorchPolicy(network)(context.states)
    found = OnnxPolicy(to_bytes(model), context.observation, 3)(context.states)
    assert np.abs(found - full).max() < 0.1 * np.ptp(full)


@pytest.mark.parametrize(("trained", "block_size"), [(32, 32), (64, 16), (None, 128)])
def test_weights_on_levels_are_encoded_bit_for_bit(
    make_network, make_context, trained: int | None, block_size: int
) -> None:
    network = make_network("wide")
    weights = put_on_levels(network, trained)
    context = make_context("mlp", make_network("mlp"))
    model = quantize(network, context, block_size=block_size, bias_correction=False)
    np.testing.assert_array_equal(decoded_weights(model)["dense2.codes"], weights)


def test_levels_of_smaller_blocks_are_refused_by_naming_them(make_network, make_context) -> None:
    network = make_network("wide")
    put_on_levels(network, 32)
    with pytest.raises(
        InvalidInputError, match="at most 32, since the weights of dense2"
    ) as caught:
        quantize(network, make_context("mlp", make_network("mlp")), block_size=64)
    assert caught.value.field == "quantize_int4.block_size"


def test_layers_narrower_than_the_smallest_stay_in_floats(make_network, make_context) -> None:
    network = make_network("mlp")
    context = make_context("mlp", network)
    model = quantize(network, context, smallest=16, block_size=16)
    kinds = [node.op_type for node in model.graph.node if node.op_type != "Relu"]
    assert kinds == ["MatMulNBits", "Gemm", "Gemm"]
    with pytest.raises(InvalidInputError, match=r"\(dense1: 16, dense2: 12, head: 2\)") as caught:
        quantize(network, context, smallest=17)
    assert caught.value.field == "quantize_int4.smallest"


def test_bias_correction_takes_back_the_mean_error(make_network, make_context) -> None:
    network = make_network("conv")
    context = make_context("conv", network)

    def mean_error(**values: Any) -> float:
        model = quantize(network, context, smallest=20, **values)
        found, wanted = (
            np.concatenate([v["q_values"] for v in run_tensors(m, ["q_values"], context.states)])
            for m in (model, load(network))
        )
        return float(np.abs((found - wanted).mean(axis=0)).max())

    assert mean_error() < 0.1 * mean_error(bias_correction=False)
