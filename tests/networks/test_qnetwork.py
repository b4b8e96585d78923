from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from slimq.networks.qnetwork import MixedPrecision, QNetwork, count_macs, count_parameters
from slimq.networks.specification import NATURE, ConvSpec, MLPSpec, QNetworkSpec

PONG = QNetworkSpec(
    body=NATURE, observation_shape=(4, 84, 84), observation_dtype="uint8", actions=6
)
CARTPOLE = QNetworkSpec(
    body=MLPSpec(hidden=(256, 256)), observation_shape=(4,), observation_dtype="float32", actions=2
)


def test_the_nature_network_has_the_published_size() -> None:
    assert count_parameters(QNetwork(PONG)) == 1_687_206
    assert count_macs(PONG) == 9_346_048


def test_a_dense_network_counts_its_layers() -> None:
    assert count_parameters(QNetwork(CARTPOLE)) == 4 * 256 + 256 + 256 * 256 + 256 + 256 * 2 + 2
    assert count_macs(CARTPOLE) == 4 * 256 + 256 * 256 + 256 * 2


def test_frames_are_scaled_inside_the_network() -> None:
    network = QNetwork(PONG)
    frames = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8)
    by_hand = network.head(network.features(frames.float() / 255.0))
    assert torch.allclose(network(frames), by_hand, atol=1e-6)


def test_mixed_precision_stays_close_and_returns_float32() -> None:
    network = QNetwork(PONG)
    frames = torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8)
    with torch.no_grad():
        exact, mixed = network(frames), MixedPrecision(network)(frames)
    assert mixed.dtype == torch.float32
    assert torch.allclose(exact, mixed, atol=0.01)


@pytest.mark.parametrize(
    ("body", "shape", "problem"),
    [
        (NATURE, (4,), "conv network takes"),
        (NATURE, (4, 15, 84), r"convolutions\[1\].kernel: expected at most 2"),
        (NATURE, (4, 20, 84), r"convolutions\[2\].kernel: expected at most 1"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(
    body: ConvSpec | MLPSpec, shape: tuple[int, ...], problem: str
) -> None:
    with pytest.raises(ValidationError, match=problem):
        QNetworkSpec(body=body, observation_shape=shape, observation_dtype="uint8", actions=2)
