from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from slimq.core.errors import InvalidInputError
from slimq.networks.export import RANGES, export_onnx
from slimq.networks.qnetwork import QNetwork
from slimq.networks.specification import QNetworkSpec
from slimq_compression.graph.model import run_tensors, to_bytes
from slimq_compression.graph.weights import count_weights
from slimq_compression.passes.fold import Params, apply

NORMALIZED = QNetworkSpec.model_validate(
    {
        "body": {
            "kind": "conv",
            "convolutions": [
                {"channels": 6, "kernel": 4, "stride": 2, "batch_norm": True, "padding": 1},
                {
                    "kind": "residual",
                    "layers": [
                        {"channels": 12, "kernel": 1, "groups": 2},
                        {"kind": "shuffle", "groups": 2},
                        {
                            "channels": 12,
                            "kernel": 3,
                            "padding": 1,
                            "groups": 12,
                            "batch_norm": True,
                            "activation": False,
                        },
                        {"channels": 6, "kernel": 1, "activation": False},
                    ],
                },
            ],
            "hidden": [20],
        },
        "observation_shape": (2, 20, 16),
        "observation_dtype": "uint8",
        "actions": 3,
    }
)


@pytest.fixture
def normalized() -> QNetwork:
    """With the statistics and affine parameters of a trained network."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = QNetwork(NORMALIZED).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2.0, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(generator=generator)
    return network


def load(network: QNetwork) -> onnx.ModelProto:
    return onnx.load_model_from_string(export_onnx(network))


def outputs(model: onnx.ModelProto, states: Any) -> np.ndarray:
    return np.concatenate([v["q_values"] for v in run_tensors(model, ["q_values"], states)])


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def test_batch_normalization_and_the_input_scale_go_into_the_weights(
    normalized, make_states
) -> None:
    model, states = load(normalized), make_states("conv", 50)
    folded = apply(model, Params(), None)
    assert {"BatchNormalization", "Mul"} <= operators(model)
    assert not {"BatchNormalization", "Mul"} & operators(folded)
    wanted = outputs(model, states)
    np.testing.assert_allclose(outputs(folded, states), wanted, atol=1e-5)
    assert len(to_bytes(folded)) < len(to_bytes(model))
    assert count_weights(folded)[0] == count_weights(model)[0]


def test_each_folding_can_be_left_out(normalized) -> None:
    model = load(normalized)
    norms = apply(model, Params(input_scale=False), None)
    scale = apply(model, Params(batch_norm=False), None)
    assert "Mul" in operators(norms)
    assert "BatchNormalization" not in operators(norms)
    assert "Mul" not in operators(scale)
    assert "BatchNormalization" in operators(scale)


def test_a_convolution_without_bias_gets_one(normalized, make_states) -> None:
    model, states = load(normalized), make_states("conv", 20)
    (conv,) = (node for node in model.graph.node if node.name == "conv1")
    del conv.input[2]
    folded = apply(model, Params(), None)
    np.testing.assert_allclose(outputs(folded, states), outputs(model, states), atol=1e-5)


def test_tensors_keep_their_names_so_that_learned_ranges_still_hold(normalized) -> None:
    normalized.ranges = {"conv1.relu": (0.0, 1.0)}
    model = load(normalized)
    folded = apply(model, Params(), None)
    names = {node.name for node in model.graph.node if node.op_type in ("Conv", "Relu", "Gemm")}
    assert names <= {node.name for node in folded.graph.node}
    assert {entry.key for entry in folded.metadata_props} == {RANGES}
    assert {"conv1.norm", "conv1.relu"} <= {n.output[0] for n in folded.graph.node}


def test_float_observations_have_no_scale_to_fold(make_network) -> None:
    model = load(make_network("mlp"))
    assert to_bytes(apply(model, Params(), None)) == to_bytes(model)


def test_constant_nodes_become_initializers(make_network, make_states) -> None:
    model, states = load(make_network("conv")), make_states("conv", 5)
    wanted = outputs(model, states)
    for tensor in list(model.graph.initializer):
        model.graph.initializer.remove(tensor)
        node = helper.make_node("Constant", [], [tensor.name], value=tensor)
        model.graph.node.insert(0, node)
    folded = apply(model, Params(), None)
    assert "Constant" not in operators(folded)
    np.testing.assert_allclose(outputs(folded, states), wanted, atol=1e-5)


def test_batch_normalization_behind_something_else_is_refused(normalized) -> None:
    model = load(normalized)
    (relu,) = (node for node in model.graph.node if node.name == "conv1.relu")
    (norm,) = (node for node in model.graph.node if node.name == "conv1.norm")
    norm.input[0], relu.input[0] = "conv1.relu", "conv1"
    model.graph.node.remove(norm)
    norm.output[0] = "moved"
    model.graph.node.append(norm)
    model.graph.output.append(helper.make_tensor_value_info("moved", TensorProto.FLOAT, None))
    with pytest.raises(InvalidInputError, match=r"directly after a convolution.*'conv1.norm'") as e:
        apply(model, Params(), None)
    assert e.value.field == "fold.batch_norm"


def test_scaled_frames_that_something_else_reads_are_refused(make_network) -> None:
    model = load(make_network("conv"))
    shift = numpy_helper.from_array(np.array(0.5, np.float32), "shift")
    model.graph.initializer.append(shift)
    model.graph.node.insert(2, helper.make_node("Add", ["scaled", "shift"], ["moved"], name="add"))
    (conv,) = (node for node in model.graph.node if node.name == "conv1")
    conv.input[0] = "moved"
    with pytest.raises(InvalidInputError, match=r"only layers with float weights.*'add'") as caught:
        apply(model, Params(), None)
    assert caught.value.field == "fold.input_scale"
