"""Small policy files in the layout of other programs, and pickles that would leave a trace."""

from __future__ import annotations

import base64
import io
import itertools
import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

Box, Discrete = gymnasium.spaces.Box, gymnasium.spaces.Discrete
VECTOR = Box(-np.inf, np.inf, (4,), np.float32)
SYSTEM = "- OS: Linux\n- Python: 3.11.7\n- Stable-Baselines3: 2.9.2\n- PyTorch: 2.13.0\n"


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.target), "w")


class Module(nn.Module):
    """A network that is pickled whole, as `torch.save(model)` does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)


def serialized(value: Any, **more: Any) -> dict[str, Any]:
    """A value of a zip's `data` that JSON cannot hold."""
    encoded = base64.b64encode(pickle.dumps(value)).decode()
    return {":type:": str(type(value)), ":serialized:": encoded, **more}


def torch_bytes(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def dense(*widths: int, seed: int = 0) -> dict[str, Tensor]:
    """Weights `0.weight`, `0.bias`, `2.weight`, … of layers with these widths."""
    torch.manual_seed(seed)
    found = {}
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        found[f"{2 * index}.weight"] = torch.randn(outputs, inputs) / inputs**0.5
        found[f"{2 * index}.bias"] = torch.randn(outputs)
    return found


def q_net(layers: dict[str, Tensor], network: str = "q_net") -> dict[str, Tensor]:
    """The state dict of a policy with these layers, and a target network."""
    names = (f"{network}.{network}", f"{network}_target.{network}")
    return {f"{name}.{key}": value for name in names for key, value in layers.items()}


def sb3_zip(
    path: Path,
    weights: dict[str, Tensor],
    space: Any = VECTOR,
    actions: Any = None,
    keywords: Any = None,
    **changes: Any,
) -> Path:
    """A zip as Stable-Baselines3 writes it; `changes` replaces members, None leaves one out."""
    data = {
        "policy_class": serialized(OrderedDict),
        "policy_kwargs": serialized(keywords) if keywords else {},
        "observation_space": serialized(space),
        "action_space": serialized(actions or Discrete(2)),
    }
    members: dict[str, Any] = {
        "data": json.dumps(data | changes.pop("data", {})),
        "policy.pth": torch_bytes(OrderedDict(weights)),
        "pytorch_variables.pth": torch_bytes({}),
        "_stable_baselines3_version": "2.9.2",
        "system_info.txt": SYSTEM,
    }
    members |= {name.replace("__", "."): value for name, value in changes.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in members.items():
            if value is not None:
                archive.writestr(name, value)
    return path


def save(path: Path, value: Any) -> Path:
    path.write_bytes(torch_bytes(value))
    return path


def forward(layers: dict[str, Tensor], states: Any, activation: Any = torch.relu) -> Any:
    """Q-values of `dense` layers for states `(batch, width)`, as numpy."""
    values = torch.as_tensor(states, dtype=torch.float32).flatten(1)
    count = len(layers) // 2
    for index in range(count):
        weight, bias = layers[f"{2 * index}.weight"], layers[f"{2 * index}.bias"]
        values = values @ weight.T + bias
        if index + 1 < count:
            values = activation(values)
    return values.numpy()


def write_states(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path
