from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from slimq.networks.export import OPSET, export_onnx
from slimq.networks.qnetwork import QNetwork
from slimq.networks.specification import NATURE, ConvLayer, ConvSpec, MLPSpec, QNetworkSpec
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


def test_the_same_network_gives_the_same_bytes_and_another_one_others() -> None:
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
