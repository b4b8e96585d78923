from __future__ import annotations

import numpy as np
import pytest
import torch

from slimq.core.errors import RepositoryError
from slimq.networks.checkpoint import load_network, save_network
from slimq.networks.qnetwork import QNetwork, arrange
from slimq.networks.specification import NATURE, MLPSpec, QNetworkSpec

SPEC = QNetworkSpec(
    body=NATURE, observation_shape=(4, 84, 84), observation_dtype="uint8", actions=6
)


def test_a_network_comes_back_with_the_same_q_values() -> None:
    network = arrange(QNetwork(SPEC))
    frames = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    copy = load_network(save_network(network))
    assert copy.spec == SPEC
    with torch.no_grad():
        np.testing.assert_allclose(copy(frames), network(frames), atol=1e-6)


def test_the_same_network_gives_the_same_bytes() -> None:
    network = QNetwork(SPEC)
    first = save_network(network)
    assert first == save_network(load_network(first))


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x10\0\0\0\0\0\0\0{}"])
def test_a_file_that_is_not_a_checkpoint_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(RepositoryError, match=r"here\.safetensors: is not a slimq checkpoint"):
        load_network(content, "here.safetensors")


def test_a_truncated_network_is_refused() -> None:
    small = QNetworkSpec(
        body=MLPSpec(hidden=(8,)), observation_shape=(4,), observation_dtype="float32", actions=2
    )
    content = save_network(QNetwork(small))
    with pytest.raises(RepositoryError, match="is not a slimq checkpoint"):
        load_network(content[:-5])
