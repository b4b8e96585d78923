"""Graphs become layers: what is counted, what is refused, and with which words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, load_from_string

from builders import make_model
from c_exports import shipped_model
from places import POLICIES
from slimq.core.observation import ObservationSpec
from slimq.core.repository import Repository
from slimq_compression.export.layers.kinds import Convolution, Dense, Quantize, Weighted
from slimq_compression.export.lowering.lower import lower
from slimq_compression.export.lowering.state import UnsupportedError

FLOATS = ObservationSpec(dtype="float32", shape=(4,))
DENSE = [
    ("cartpole", "micro"),
    ("minigrid-empty", "fp32"),
    ("pong", "mobilenet-undisturbed"),
    ("pong", "int8"),
]


@pytest.mark.parametrize(("policy", "variant"), DENSE)
def test_multiply_accumulates_are_those_of_the_manifest(policy: str, variant: str) -> None:
    manifest = Repository(POLICIES).variant(policy, variant)
    assert lower(*shipped_model(policy, variant)).macs == manifest.macs


def test_sparse_weights_cost_as_many_as_are_stored() -> None:
    network = lower(*shipped_model("cartpole", "sparse-obd"))
    assert network.macs == 367 + 6289 + 256 * 2


def test_frames_are_cropped_and_older_ones_are_not_kept() -> None:
    network = lower(*shipped_model("pong", "tiny"))
    assert network.window.shape == (2, 64, 84)
    assert [type(layer) for layer in network.layers] == [Convolution, Convolution, Dense, Dense]


def test_integers_stay_where_the_graph_has_them() -> None:
    layers = lower(*shipped_model("pong", "int8")).layers
    elements = [layer.output.buffer.element for layer in layers]
    assert elements == ["uint8_t", "uint8_t", "uint8_t", "uint8_t", "float"]
    assert all(isinstance(layer.epilogue[-1], Quantize) for layer in layers[:-1])
    sums = [layer.sums_integers for layer in layers if isinstance(layer, Weighted)]
    assert sums == [True, True, True, True, False]


def test_no_activation_is_quantized_that_the_graph_does_not() -> None:
    layers = lower(*shipped_model("pong", "tiny")).layers
    assert {layer.output.buffer.element for layer in layers} == {"float"}


def build(nodes: list[Any], constants: dict[str, Any]) -> Any:
    return load_from_string(make_model(nodes, constants, (TensorProto.FLOAT, [4]), 2))


def gemm(source: str, output: str) -> Any:
    return helper.make_node("Gemm", [source, "weight"], [output], transB=1)


WEIGHT = {"weight": np.arange(8, dtype=np.float32).reshape(2, 4)}


@pytest.mark.parametrize(
    ("nodes", "problem"),
    [
        ([helper.make_node("Softsign", ["observation"], ["a"]), gemm("a", "q_values")], "Softsign"),
        (
            [
                helper.make_node("Cast", ["observation"], ["a"], to=TensorProto.FLOAT16),
                helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
                gemm("b", "q_values"),
            ],
            "Cast (to type 10)",
        ),
        (
            [gemm("observation", "a"), helper.make_node("Mod", ["a", "a"], ["q_values"], fmod=1)],
            "Mod",
        ),
    ],
)
def test_what_cannot_be_lowered_is_named(nodes: list[Any], problem: str) -> None:
    with pytest.raises(UnsupportedError) as error:
        lower(build(nodes, WEIGHT), FLOATS, 2)
    assert str(error.value) == problem


def test_a_bias_added_after_a_product_becomes_the_layers_own() -> None:
    nodes = [
        helper.make_node("MatMul", ["observation", "weight"], ["a"]),
        helper.make_node("Add", ["a", "bias"], ["q_values"]),
    ]
    bias = np.array([1.0, 2.0], np.float32)
    network = lower(build(nodes, {"weight": WEIGHT["weight"].T, "bias": bias}), FLOATS, 2)
    (layer,) = network.layers
    assert isinstance(layer, Dense)
    assert layer.bias is not None
    assert layer.bias.tolist() == [1.0, 2.0]
