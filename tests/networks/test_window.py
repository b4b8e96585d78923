"""A window, the part of the frames that a network looks at, and the background, its zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from pydantic import ValidationError

from slimq.core.observation import FrameStack, ObservationSpec
from slimq.core.onnx_policy import OnnxPolicy
from slimq.networks.checkpoint import load_network, save_network
from slimq.networks.export import export_onnx
from slimq.networks.qnetwork import MixedPrecision, QNetwork, count_macs
from slimq.networks.specification import QNetworkSpec
from slimq.networks.torch_policy import TorchPolicy

OBSERVATION = ObservationSpec(dtype="uint8", shape=(4, 20, 16), stack=FrameStack(count=4))
WINDOW = {"channels": [2, 4], "rows": [3, 19], "columns": [1, 15]}


def make_spec(window: dict[str, Any] | None) -> QNetworkSpec:
    return QNetworkSpec.model_validate(
        {
            "body": {
                "kind": "conv",
                "window": window,
                "convolutions": [{"channels": 5, "kernel": 4, "stride": 2}],
                "hidden": [8],
            },
            "observation_shape": OBSERVATION.shape,
            "observation_dtype": "uint8",
            "actions": 3,
        }
    )


def make_network(window: dict[str, Any] | None = WINDOW) -> QNetwork:
    torch.manual_seed(0)
    return QNetwork(make_spec(window)).eval()


def draw_frames(count: int = 6) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 4, 20, 16), dtype=np.uint8)


def test_pixels_outside_the_window_make_no_difference() -> None:
    policy, frames = TorchPolicy(make_network()), draw_frames()
    outside = 255 - frames
    outside[:, 2:4, 3:19, 1:15] = frames[:, 2:4, 3:19, 1:15]
    np.testing.assert_array_equal(policy(outside), policy(frames))
    inside = frames.copy()
    inside[:, 3, 10, 8] ^= 255
    assert not np.array_equal(policy(inside), policy(frames))


def test_the_first_layers_are_sized_for_the_window() -> None:
    spec = make_spec(WINDOW)
    assert spec.seen_shape == (2, 16, 14)
    assert spec.flat_width == 5 * 7 * 6
    assert count_macs(spec) == 7 * 6 * 5 * 2 * 16 + 210 * 8 + 8 * 3


def test_without_spans_a_window_is_everything() -> None:
    assert make_spec({}).seen_shape == make_spec(None).seen_shape == (4, 20, 16)


def test_the_graph_slices_bytes_and_gives_the_networks_q_values() -> None:
    network, frames = make_network(), draw_frames()
    model = export_onnx(network)
    policy = OnnxPolicy(model, OBSERVATION, 3)
    np.testing.assert_allclose(policy(frames), TorchPolicy(network)(frames), atol=1e-5)
    assert [n.op_type for n in onnx.load_from_string(model).graph.node][:2] == ["Slice", "Cast"]


def test_a_checkpoint_and_mixed_precision_keep_the_window() -> None:
    network, frames = make_network(), torch.from_numpy(draw_frames())
    assert load_network(save_network(network)).spec == network.spec
    with torch.no_grad():
        assert torch.allclose(MixedPrecision(network)(frames), network(frames), atol=0.02)


@pytest.mark.parametrize(
    ("window", "problem"),
    [
        ({"channels": [2, 5]}, r"window\.channels: expected start < stop <= 4, received 2, 5"),
        ({"rows": [7, 7]}, r"window\.rows: expected start < stop <= 20, received 7, 7"),
        ({"columns": [9, 3]}, r"window\.columns: expected start < stop <= 16, received 9, 3"),
        ({"rows": [0, 3]}, r"convolutions\[0\]\.kernel: expected at most 3"),
    ],
)
def test_a_window_that_does_not_fit_is_refused_by_its_field(
    window: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValidationError, match=problem):
        make_spec(window)


def test_a_background_counts_as_zero_and_costs_the_graph_nothing() -> None:
    spec = make_spec(WINDOW)
    body = spec.body.model_copy(update={"background": 87})
    torch.manual_seed(0)
    network = QNetwork(spec.model_copy(update={"body": body})).eval()
    frames = draw_frames()
    blank = torch.full((1, 4, 20, 16), 87, dtype=torch.uint8)
    assert torch.equal(network.prepare(blank), torch.zeros(1, 2, 16, 14))
    model = export_onnx(network)
    policy = OnnxPolicy(model, OBSERVATION, 3)
    np.testing.assert_allclose(policy(frames), TorchPolicy(network)(frames), atol=1e-5)
    operators, without = (
        [node.op_type for node in onnx.load_from_string(content).graph.node]
        for content in (model, export_onnx(make_network()))
    )
    assert operators == without
    with torch.no_grad():
        mixed = MixedPrecision(network)(torch.from_numpy(frames)).numpy()
    np.testing.assert_allclose(mixed, TorchPolicy(network)(frames), atol=0.02)


@pytest.mark.parametrize(
    "first", [{"channels": 5, "kernel": 3, "padding": 1}, {"kind": "shuffle", "groups": 2}]
)
def test_a_background_needs_a_first_convolution_without_padding(first: dict[str, Any]) -> None:
    body = {"kind": "conv", "background": 87, "convolutions": [first], "hidden": [8]}
    with pytest.raises(
        ValidationError, match="background: the first layer must be a convolution without"
    ):
        QNetworkSpec.model_validate(
            {
                "body": body,
                "observation_shape": OBSERVATION.shape,
                "observation_dtype": "uint8",
                "actions": 3,
            }
        )
