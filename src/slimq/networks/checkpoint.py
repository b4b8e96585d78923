"""Checkpoints: one safetensors file with a network's weights, and its specification as metadata."""

from __future__ import annotations

import json

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from slimq.core.errors import RepositoryError
from slimq.networks.qnetwork import QNetwork
from slimq.networks.specification import QNetworkSpec

_KEY = "slimq.network"


def save_network(network: QNetwork) -> bytes:
    """Serializes a network; the same network always gives the same bytes."""
    weights = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in sorted(network.state_dict().items())
    }
    return save(weights, metadata={_KEY: network.spec.model_dump_json()})


def load_network(content: bytes, source: str = "checkpoint") -> QNetwork:
    """Restores a network written by `save_network`, on the CPU, in evaluation mode.

    Args:
        content: the file's bytes.
        source: name of the file in errors.

    Raises:
        RepositoryError: the file is not a checkpoint, or its weights and specification disagree.
    """
    try:
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        spec = QNetworkSpec.model_validate_json(metadata[_KEY])
        network = QNetwork(spec)
        network.load_state_dict(load(content))
    except (
        SafetensorError,
        ValidationError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
    ) as error:
        raise RepositoryError(source, f"is not a slimq checkpoint: {error}") from error
    return network.eval()
