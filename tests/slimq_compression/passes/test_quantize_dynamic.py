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
from slimq_compression.graph.model import to_bytes
from slimq_compression.graph.weights import count_weights, decoded_weights, describe_precision
from slimq_compression.passes.quantize_dynamic import Params, apply


def quantize(network: Any, **values: Any) -> onnx.ModelProto:
    return apply(onnx.load_model_from_string(export_onnx(network)), Params(**values), None)


def codes_of(model: onnx.ModelProto, layer: str) -> np.ndarray:
    stored = next(t for t in model.graph.initializer if t.name == f"{layer}.codes")
    return onnx.numpy_helper.to_array(stored)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_q_values_stay_near_the_full_networks(
    make_network, make_context, kind: str, per_channel: bool
) -> None:
    """With portable codes: sums of others saturate on some processors, and err by a quarter."""
    network = make_network(kind)
    context = make_context(kind, network)
    model = to_bytes(quantize(network, per_channel=per_channel))
    full = TorchPolicy(network)(context.states)
    found = OnnxPolicy(model, context.observation, network.spec.actions)(context.states)
    assert 0 < np.abs(found - full).max() < 0.05 * np.ptp(full)


def test_only_dense_layers_change_and_their_parameters_stay_counted(make_network) -> None:
    network = make_network("conv")
    model = quantize(network)
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert (kinds["conv1"], kinds["conv2"]) == ("Conv", "Conv")
    assert (kinds["dense1"], kinds["head"]) == ("DynamicQuantizeMatMul",) * 2
    assert count_weights(model)[0] == count_parameters(network)
    assert describe_precision(model) == "fp32+int8"


def test_only_named_layers_change(make_network) -> None:
    model = quantize(make_network("conv"), layers=("dense1",))
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert (kinds["dense1"], kinds["head"]) == ("DynamicQuantizeMatMul", "Gemm")


def test_a_convolution_or_an_unknown_name_is_refused_by_listing_what_there_is(make_network) -> None:
    for layers in (("conv1",), ("dense1", "dense9")):
        with pytest.raises(InvalidInputError, match=r"\(dense1, head\).*received '(conv1|dense9)'"):
            quantize(make_network("conv"), layers=layers)


def test_a_graph_without_dense_float_layers_is_refused(make_network) -> None:
    model = quantize(make_network("mlp"))
    with pytest.raises(InvalidInputError, match="float weights in Gemm or MatMul, received one"):
        apply(model, Params(), None)


def test_portable_codes_have_seven_bits(make_network) -> None:
    network = make_network("mlp")
    for portable, highest in ((True, 64), (False, 127)):
        codes = codes_of(quantize(network, portable=portable), "dense1")
        assert np.abs(codes.astype(int)).max() == highest


def test_weights_on_levels_are_encoded_bit_for_bit(make_network) -> None:
    network = make_network("mlp")
    grid = LinearLevels(64, fit=False)
    with torch.no_grad():
        grid.advance(network.head.weight, 0.0)
        network.head.weight.copy_(grid.project(network.head.weight))
    decoded = decoded_weights(quantize(network))["head.codes"]
    np.testing.assert_array_equal(decoded, network.head.weight.detach().numpy())
