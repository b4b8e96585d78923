from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from slimq.networks.export import OPSET, RANGES, export_onnx
from slimq.networks.layers import ConvLayer
from slimq.networks.qnetwork import QNetwork
from slimq.networks.specification import NATURE, ConvSpec, MLPSpec, QNetworkSpec
from slimq.networks.torch_policy import TorchPolicy

MLP = QNetworkSpec(
    body=MLPSpec(hidden=(16, 8)), observation_shape=(4,), observation_dtype="float32", actions=2
)
CONV = QNetworkSpec(
    body=ConvSpec(
        convolutions=(
            ConvLayer(channels=6, kernel=4, stride=2),
            ConvLayer(channels=5, kernel=3, stride=1),
        ),
        hidden=(12,),
    ),
    observation_shape=(2, 20, 16),
    observation_dtype="uint8",
    actions=3,
)
PONG = QNetworkSpec(
    body=NATURE, observation_shape=(4, 84, 84), observation_dtype="uint8", actions=6
)


def make_network(spec: QNetworkSpec, seed: int = 0) -> QNetwork:
    torch.manual_seed(seed)
    return QNetwork(spec).eval()


def make_observations(spec: QNetworkSpec, count: int) -> np.ndarray:
    generator = np.random.default_rng(1)
    if spec.observation_dtype == "uint8":
        return generator.integers(0, 256, (count, *spec.observation_shape), dtype=np.uint8)
    return generator.normal(size=(count, *spec.observation_shape)).astype(np.float32)


@pytest.mark.parametrize("spec", [MLP, CONV], ids=["mlp", "conv"])
@pytest.mark.parametrize("batch", [1, 5])
def test_the_graph_gives_the_networks_q_values(spec: QNetworkSpec, batch: int) -> None:
    network = make_network(spec)
    session = ort.InferenceSession(export_onnx(network), providers=["CPUExecutionProvider"])
    observations = make_observations(spec, batch)
    (q_values,) = session.run(["q_values"], {"observation": observations})
    np.testing.assert_allclose(q_values, TorchPolicy(network)(observations), atol=1e-5)


@pytest.mark.parametrize("spec", [MLP, CONV], ids=["mlp", "conv"])
def test_input_and_output_have_the_agreed_names_and_a_dynamic_batch(spec: QNetworkSpec) -> None:
    model = onnx.load_from_string(export_onnx(make_network(spec)))
    (given,), (answer,) = model.graph.input, model.graph.output
    assert (given.name, answer.name) == ("observation", "q_values")
    for value in (given, answer):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert model.opset_import[0].version == OPSET


def test_the_same_network_gives_the_same_bytes_and_another_does_not() -> None:
    first, again, other = (export_onnx(make_network(CONV, seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_the_file_has_no_doc_strings_and_canonical_names() -> None:
    model = onnx.load_from_string(export_onnx(make_network(CONV)))
    assert not model.doc_string
    assert not any(node.doc_string for node in model.graph.node)
    names = {tensor.name for tensor in model.graph.initializer}
    assert {"conv1.weight", "conv2.bias", "dense1.weight", "head.bias"} <= names


def test_export_leaves_the_network_as_it_was() -> None:
    network = make_network(CONV)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    export_onnx(network)
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_another_opset_is_written_when_asked_for() -> None:
    model = onnx.load_from_string(export_onnx(make_network(MLP), opset=17))
    assert model.opset_import[0].version == 17


def test_the_pong_network_takes_6_75_megabytes() -> None:
    assert len(export_onnx(make_network(PONG))) == pytest.approx(6_750_000, rel=1e-3)


BLOCKS: dict[str, list[dict[str, Any]]] = {
    "padding": [{"channels": 5, "kernel": 3, "stride": 2, "padding": 1}],
    "depthwise": [
        {"channels": 6, "kernel": 4, "stride": 2},
        {"channels": 6, "kernel": 3, "padding": 1, "groups": 6},
    ],
    "batch-norm": [{"channels": 6, "kernel": 4, "stride": 2, "batch_norm": True}],
    "linear": [{"channels": 6, "kernel": 4, "activation": False}, {"channels": 4, "kernel": 3}],
    "shuffle": [
        {"channels": 6, "kernel": 4, "stride": 2, "groups": 2},
        {"kind": "shuffle", "groups": 2},
        {"kind": "shuffle", "groups": 3},
        {"channels": 4, "kernel": 1, "groups": 2},
    ],
    "shuffled-frames": [{"kind": "shuffle", "groups": 2}, {"channels": 4, "kernel": 3}],
    "residual": [
        {"channels": 6, "kernel": 4, "stride": 2},
        {
            "kind": "residual",
            "layers": [
                {"channels": 12, "kernel": 1, "batch_norm": True},
                {"kind": "shuffle", "groups": 2},
                {"channels": 12, "kernel": 3, "padding": 1, "groups": 12, "batch_norm": True},
                {"channels": 6, "kernel": 1, "activation": False},
            ],
        },
        {"kind": "residual", "layers": [{"channels": 6, "kernel": 3, "padding": 1}]},
    ],
}


def make_blocks(name: str) -> QNetwork:
    """With statistics of batches, as after a training, not those of a fresh network."""
    values = CONV.model_dump()
    values["body"]["convolutions"] = BLOCKS[name]
    values["observation_shape"] = (4, 20, 16)
    network = make_network(QNetworkSpec.model_validate(values)).train()
    for seed in range(3):
        torch.manual_seed(seed)
        network(torch.randint(0, 256, (8, 4, 20, 16), dtype=torch.uint8))
    return network.eval()


@pytest.mark.parametrize("name", list(BLOCKS))
@pytest.mark.parametrize("batch", [1, 3])
def test_every_kind_of_layer_computes_the_same_as_in_torch(name: str, batch: int) -> None:
    network = make_blocks(name)
    observations = make_observations(network.spec, batch)
    session = ort.InferenceSession(export_onnx(network), providers=["CPUExecutionProvider"])
    (q_values,) = session.run(["q_values"], {"observation": observations})
    np.testing.assert_allclose(q_values, TorchPolicy(network)(observations), atol=1e-5)


def test_layers_inside_a_residual_block_are_named_in_order_of_computation() -> None:
    model = onnx.load_from_string(export_onnx(make_blocks("residual")))
    names = [node.name for node in model.graph.node]
    assert names[2:14] == [
        "conv1",
        "conv1.relu",
        "conv2",
        "conv2.norm",
        "conv2.relu",
        "shuffle1",
        "conv3",
        "conv3.norm",
        "conv3.relu",
        "conv4",
        "residual1",
        "conv5",
    ]


def test_learned_activation_ranges_are_exported() -> None:
    network = make_network(CONV)
    plain = onnx.load_from_string(export_onnx(network))
    assert not plain.metadata_props
    network.ranges = {"conv1.relu": (0.0, 2.5)}
    (entry,) = onnx.load_from_string(export_onnx(network)).metadata_props
    assert entry.key == RANGES
    assert json.loads(entry.value) == {"conv1.relu": [0.0, 2.5]}


def test_an_unsupported_module_is_named() -> None:
    network = make_network(CONV)
    network.features.append(torch.nn.Sigmoid())
    with pytest.raises(TypeError, match="the exporter does not support Sigmoid"):
        export_onnx(network)


def test_batch_normalization_needs_running_statistics() -> None:
    network = make_blocks("batch-norm")
    network.features[1] = torch.nn.BatchNorm2d(6, track_running_stats=False)
    with pytest.raises(TypeError, match="needs batch normalization with running statistics"):
        export_onnx(network)
