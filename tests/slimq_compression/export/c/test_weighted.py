"""Layers in C: every storage of weights, every shape of a convolution, integers and floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from c_exports import BOUND, needs_compiler, relative_difference
from slimq.core.observation import ObservationSpec
from slimq.networks.export import export_onnx
from slimq.networks.grids import Codebook, LinearLevels, Mask, PowerOfTwoLevels, project
from slimq.networks.layers import ConvLayer, ResidualLayer, ShuffleLayer
from slimq.networks.qnetwork import QNetwork, named_layers
from slimq.networks.specification import ConvSpec, QNetworkSpec
from slimq_compression.export.layers.kinds import Weighted
from slimq_compression.export.lowering.lower import lower
from slimq_compression.graph.model import to_bytes
from slimq_compression.passes import quantize_activations, quantize_int8, store_weights
from slimq_compression.storage.decoders import Sparse

pytestmark = needs_compiler
FRAMES = ObservationSpec(dtype="uint8", shape=(2, 20, 16), low=0, high=255)
GRIDS: dict[str, Any] = {
    "linear8": lambda: (LinearLevels(127),),
    "linear4": lambda: (LinearLevels(7),),
    "linear4-tensor": lambda: (LinearLevels(7, per_channel=False),),
    "linear2": lambda: (LinearLevels(1),),
    "power-of-two4": lambda: (PowerOfTwoLevels(4),),
    "codebook2": lambda: (Codebook(2),),
    "masked": lambda: (Mask(0.9),),
    "masked-linear4": lambda: (Mask(0.8), LinearLevels(7)),
    "masked-codebook4": lambda: (Mask(0.9), Codebook(4, sparse=True)),
}
STORED = [
    *((grids, Sparse.NONE) for grids in ("linear8", "linear4-tensor", "linear2", "codebook2")),
    ("power-of-two4", Sparse.NONE),
    *((grids, Sparse.BITMASK) for grids in ("masked", "masked-linear4")),
    *((grids, Sparse.DELTA) for grids in ("masked", "masked-linear4", "masked-codebook4")),
]


def put_on(network: QNetwork, grids: str) -> None:
    """Leaves the weights on a grid, as a network pass does."""
    with torch.no_grad():
        for layer in named_layers(network).values():
            made = GRIDS[grids]()
            weight = layer.weight.detach()
            for grid in made:
                grid.advance(weight, 0.0)
                weight = grid.project(weight)
            layer.weight.copy_(project(layer.weight, made))


@pytest.mark.parametrize(("grids", "sparse"), STORED)
def test_every_storage_of_weights(
    make_network: Any,
    make_context: Any,
    make_states: Any,
    grids: str,
    sparse: Sparse,
    tmp_path: Path,
) -> None:
    network = make_network("conv")
    put_on(network, grids)
    model = onnx.load_model_from_string(export_onnx(network))
    params = store_weights.Params(sparse=sparse, smallest=1)
    content = to_bytes(store_weights.apply(model, params, make_context("conv", network, states=4)))
    layers = lower(onnx.load_from_string(content), FRAMES, 3).layers
    weights = [layer.rows_of for layer in layers if isinstance(layer, Weighted)]
    kinds = {Sparse.NONE: None, Sparse.BITMASK: "mask", Sparse.DELTA: "gaps"}
    assert {one.places and one.places.kind for one in weights} == {kinds[sparse]}
    assert any(one.coded for one in weights) or grids == "masked"
    states = make_states("conv", 20)
    assert relative_difference(content, FRAMES, 3, tmp_path, states) < 1e-5


CONVOLUTIONS = {
    "padded": (ConvLayer(channels=4, kernel=5, stride=2, padding=2),),
    "depthwise": (
        ConvLayer(channels=4, kernel=3),
        ConvLayer(channels=8, kernel=3, groups=4, padding=1, stride=3),
    ),
    "residual": (
        ConvLayer(channels=4, kernel=3, stride=2),
        ResidualLayer(layers=(ConvLayer(channels=4, kernel=3, padding=1),)),
        ShuffleLayer(groups=2),
        ConvLayer(channels=6, kernel=1, groups=2),
    ),
}


def convolutional(name: str) -> QNetwork:
    torch.manual_seed(0)
    body = ConvSpec(convolutions=CONVOLUTIONS[name], hidden=(7,))
    shape = FRAMES.shape
    return QNetwork(
        QNetworkSpec(body=body, observation_shape=shape, observation_dtype="uint8", actions=3)
    ).eval()


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_shape_of_a_convolution(name: str, make_states: Any, tmp_path: Path) -> None:
    content = export_onnx(convolutional(name))
    states = make_states("conv", 20)
    assert relative_difference(content, FRAMES, 3, tmp_path, states) < 1e-5


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_integers_of_either_sign(
    name: str, activations: str, make_context: Any, make_states: Any, tmp_path: Path
) -> None:
    network = convolutional(name)
    model = onnx.load_model_from_string(export_onnx(network))
    params = quantize_int8.Params(activations=quantize_int8.Activations(activations))
    content = to_bytes(quantize_int8.apply(model, params, make_context("conv", network)))
    layers = lower(onnx.load_from_string(content), FRAMES, 3).layers
    assert all(layer.sums_integers for layer in layers if isinstance(layer, Weighted))
    states = make_states("conv", 50)
    assert relative_difference(content, FRAMES, 3, tmp_path, states) < BOUND


def test_activations_of_few_bits(
    make_network: Any, make_context: Any, make_states: Any, tmp_path: Path
) -> None:
    network = make_network("conv")
    put_on(network, "linear4")
    model = onnx.load_model_from_string(export_onnx(network))
    context = make_context("conv", network)
    params = quantize_activations.Params(calibration="min-max")
    coded = quantize_activations.apply(model, params, context)
    content = to_bytes(store_weights.apply(coded, store_weights.Params(smallest=1), context))
    states = make_states("conv", 50)
    assert relative_difference(content, FRAMES, 3, tmp_path, states) < BOUND
