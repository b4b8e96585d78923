from __future__ import annotations

import numpy as np
import pytest
import torch

from slimq.core.onnx_policy import make_session
from slimq.networks.architectures import ARCHITECTURES, BLOCK, Architecture, scaled
from slimq.networks.export import export_onnx
from slimq.networks.layers import ConvLayer, ResidualLayer, ShuffleLayer
from slimq.networks.qnetwork import QNetwork, count_macs, count_parameters
from slimq.networks.specification import NATURE, ConvSpec, QNetworkSpec
from slimq.networks.torch_policy import TorchPolicy

every_architecture = pytest.mark.parametrize("name", list(ARCHITECTURES))


def make_spec(name: Architecture, width: float = 1.0) -> QNetworkSpec:
    return QNetworkSpec(
        body=ARCHITECTURES[name](width),
        observation_shape=(4, 84, 84),
        observation_dtype="uint8",
        actions=6,
    )


def convolutions(body: ConvSpec) -> list[ConvLayer]:
    found: list[ConvLayer] = []
    for layer in body.convolutions:
        parts = layer.layers if isinstance(layer, ResidualLayer) else (layer,)
        found += [part for part in parts if isinstance(part, ConvLayer)]
    return found


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("nature", 1_687_206, 9_346_048),
        ("mobilenet", 165_934, 4_251_968),
        ("shufflenet", 221_622, 2_375_968),
    ],
)
def test_an_architecture_has_the_size_in_its_docstring(
    name: Architecture, parameters: int, macs: int
) -> None:
    spec = make_spec(name)
    assert count_parameters(QNetwork(spec)) == parameters
    assert count_macs(spec) == macs


def test_nature_of_width_one_is_the_published_network() -> None:
    assert ARCHITECTURES["nature"](1.0) == NATURE


@every_architecture
def test_width_scales_every_layer_by_whole_blocks(name: Architecture) -> None:
    narrow, wide = ARCHITECTURES[name](0.5), ARCHITECTURES[name](2.0)
    sizes = [count_parameters(QNetwork(make_spec(name, width))) for width in (0.5, 1.0, 2.0)]
    assert sizes == sorted(set(sizes))
    for small, large in zip(convolutions(narrow), convolutions(wide), strict=True):
        assert small.channels < large.channels
        assert small.channels % BLOCK == large.channels % BLOCK == 0


@pytest.mark.parametrize(
    ("channels", "width", "expected"), [(32, 1.0, 32), (32, 0.3, 8), (32, 0.01, 8), (20, 1.0, 24)]
)
def test_a_scaled_width_is_the_nearest_positive_block(
    channels: int, width: float, expected: int
) -> None:
    assert scaled(channels, width) == expected


def test_mobilenet_expands_filters_and_projects_without_a_relu() -> None:
    blocks = [x for x in ARCHITECTURES["mobilenet"](1.0).convolutions if x.kind == "residual"]
    assert len(blocks) == 3
    for block in blocks:
        expand, depthwise, project = convolutions(ConvSpec(convolutions=(block,), hidden=()))
        assert expand.channels == depthwise.channels == depthwise.groups == 4 * project.channels
        assert (expand.activation, depthwise.activation, project.activation) == (True, True, False)
        assert (expand.kernel, depthwise.kernel, project.kernel) == (1, 3, 1)


def test_shufflenet_shuffles_between_grouped_convolutions() -> None:
    blocks = [x for x in ARCHITECTURES["shufflenet"](1.0).convolutions if x.kind == "residual"]
    assert len(blocks) == 3
    for block in blocks:
        first, shuffle, depthwise, last = block.layers
        assert isinstance(shuffle, ShuffleLayer)
        assert isinstance(first, ConvLayer)
        assert isinstance(depthwise, ConvLayer)
        assert isinstance(last, ConvLayer)
        assert first.groups == shuffle.groups == last.groups == 2
        assert depthwise.groups == depthwise.channels
        assert not last.activation


@every_architecture
def test_every_architecture_computes_the_same_in_torch_and_in_onnx(name: Architecture) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = QNetwork(make_spec(name, 0.5)).eval()
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 84, 84), dtype=np.uint8)
    (q_values,) = make_session(export_onnx(network)).run(["q_values"], {"observation": frames})
    np.testing.assert_allclose(q_values, TorchPolicy(network)(frames), atol=1e-5)
