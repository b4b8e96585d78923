from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from slimq.networks.layers import DenseLayer, shape_after
from slimq.networks.qnetwork import QNetwork, count_macs
from slimq.networks.specification import ConvSpec, MLPSpec, QNetworkSpec

FRAMES = (4, 20, 16)
RESIDUAL = {
    "kind": "residual",
    "layers": [{"channels": 6, "kernel": 1}, {"channels": 4, "kernel": 3, "padding": 1}],
}


def make_spec(*layers: dict[str, Any], hidden: Any = (8,)) -> QNetworkSpec:
    return QNetworkSpec.model_validate(
        {
            "body": {"kind": "conv", "convolutions": layers, "hidden": hidden},
            "observation_shape": FRAMES,
            "observation_dtype": "uint8",
            "actions": 3,
        }
    )


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        ({"channels": 5, "kernel": 4, "stride": 2}, (5, 9, 7)),
        ({"channels": 5, "kernel": 3, "padding": 1}, (5, 20, 16)),
        ({"channels": 5, "kernel": 3, "stride": 2, "padding": 1}, (5, 10, 8)),
        ({"channels": 8, "kernel": 3, "groups": 4}, (8, 18, 14)),
        ({"channels": 2, "kernel": 18, "padding": 1}, (2, 5, 1)),
        ({"kind": "shuffle", "groups": 2}, FRAMES),
        (RESIDUAL, FRAMES),
    ],
)
def test_the_shape_after_a_layer_equals_torchs(
    layer: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    spec = make_spec(layer, hidden=())
    assert isinstance(spec.body, ConvSpec)
    assert shape_after(spec.body.convolutions[0], FRAMES, "") == shape
    assert spec.flat_width == shape[0] * shape[1] * shape[2]
    features = QNetwork(spec).eval().features(torch.zeros(1, *FRAMES))
    assert features.shape == (1, spec.flat_width)


@pytest.mark.parametrize(
    ("layers", "problem"),
    [
        (
            [{"channels": 6, "kernel": 3, "groups": 3}],
            r"convolutions\[0\]\.groups: must divide the 4 input channels",
        ),
        (
            [{"channels": 6, "kernel": 3, "groups": 4}],
            r"convolutions\[0\]\.groups: must divide the 6 output channels",
        ),
        (
            [{"channels": 6, "kernel": 1}, {"kind": "shuffle", "groups": 4}],
            r"convolutions\[1\]\.groups: must divide the 6 input channels",
        ),
        (
            [{"channels": 6, "kernel": 19, "padding": 1}],
            r"convolutions\[0\]\.kernel: expected at most 18, the padded input size, received 19",
        ),
        (
            [{"kind": "residual", "layers": [{"channels": 6, "kernel": 1}]}],
            r"convolutions\[0\]\.layers: must preserve the shape \(4, 20, 16\), but .* \(6, 20,",
        ),
        (
            [{"kind": "residual", "layers": [{"channels": 4, "kernel": 3}]}],
            r"convolutions\[0\]\.layers: must preserve the shape \(4, 20, 16\), but .* \(4, 18,",
        ),
        (
            [{"kind": "residual", "layers": [{"channels": 4, "kernel": 1, "groups": 3}]}],
            r"convolutions\[0\]\.layers\[0\]\.groups: must divide the 4 input channels",
        ),
    ],
)
def test_a_layer_that_does_not_fit_is_refused_by_its_place(
    layers: list[dict[str, Any]], problem: str
) -> None:
    with pytest.raises(ValidationError, match=problem):
        make_spec(*layers)


@pytest.mark.parametrize(
    ("layer", "place"),
    [
        ({"channels": 0, "kernel": 1}, "channels"),
        ({"channels": 4, "kernel": 33}, "kernel"),
        ({"channels": 4, "kernel": 3, "padding": -1}, "padding"),
        ({"channels": 4, "kernel": 3, "dilation": 2}, "dilation"),
        ({"kind": "shuffle", "groups": 0}, "groups"),
        ({"kind": "shuffle", "groups": 2, "channels": 4}, "channels"),
        ({"kind": "residual", "layers": []}, "layers"),
        ({"kind": "residual", "layers": [{"channels": 4, "kernel": 1}, RESIDUAL]}, 1),
        ({"kind": "pooling", "channels": 4, "kernel": 2}, "kind"),
    ],
)
def test_an_invalid_value_of_a_layer_is_refused_by_name(
    layer: dict[str, Any], place: str | int
) -> None:
    with pytest.raises(ValidationError) as caught:
        make_spec(layer)
    assert place in {error["loc"][-1] for error in caught.value.errors()}


def test_a_table_without_a_kind_is_a_convolution_and_comes_back_from_json() -> None:
    spec = make_spec({"channels": 4, "kernel": 1}, RESIDUAL, {"kind": "shuffle", "groups": 2})
    assert isinstance(spec.body, ConvSpec)
    assert [layer.kind for layer in spec.body.convolutions] == ["conv", "residual", "shuffle"]
    assert QNetworkSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_width_is_a_dense_layer_with_a_relu() -> None:
    bottleneck = DenseLayer(width=3, activation=False)
    spec = QNetworkSpec(
        body=MLPSpec(hidden=(8, bottleneck)),
        observation_shape=(4,),
        observation_dtype="float32",
        actions=2,
    )
    assert spec.dense_layers == (DenseLayer(width=8, activation=True), bottleneck)
    assert [type(m).__name__ for m in QNetwork(spec).features] == ["Linear", "ReLU", "Linear"]


def test_groups_divide_the_arithmetic_and_shuffles_and_sums_cost_none() -> None:
    pixels, head = 20 * 16, 4 * 20 * 16 * 3
    plain = {"channels": 4, "kernel": 3, "padding": 1}
    depthwise = plain | {"groups": 4}
    shuffle = {"kind": "shuffle", "groups": 2}
    assert count_macs(make_spec(plain, hidden=())) == pixels * 4 * 4 * 9 + head
    assert count_macs(make_spec(depthwise, shuffle, hidden=())) == pixels * 4 * 9 + head
    inside = pixels * (6 * 4 + 4 * 6 * 9)
    assert count_macs(make_spec(RESIDUAL, hidden=())) == inside + head
