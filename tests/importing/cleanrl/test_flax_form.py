from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from msgpack_bytes import layers, pack
from slimq.core.errors import InvalidInputError
from slimq.core.observation import ObservationSpec
from slimq.importing.checking import draw_observations, relative_error
from slimq.importing.cleanrl.flax_form import is_msgpack, read_flax
from slimq.networks.torch_policy import TorchPolicy

VECTOR = ObservationSpec(dtype="float32", shape=(4,))
FRAMES = ObservationSpec(dtype="uint8", shape=(4, 84, 84), low=0, high=255)


def write(path: Path, value: Any) -> Path:
    path.write_bytes(pack(value))
    return path


def found(path: Path, observation: ObservationSpec) -> tuple[Any, Any]:
    source = read_flax(path)
    states = draw_observations(observation, 3)
    fitted = source.fit(observation)
    assert fitted.network is not None
    q_values = TorchPolicy(fitted.network)(states)
    assert relative_error(fitted.reference(states), q_values) < 1e-5
    return states, q_values


def test_dense_layers_are_transposed(tmp_path: Path) -> None:
    parameters = layers(4, 6, 5, 2)
    states, q_values = found(write(tmp_path / "x", {"params": parameters}), VECTOR)
    hidden = states
    for index, layer in enumerate(parameters.values()):
        hidden = hidden @ layer["kernel"] + layer["bias"]
        hidden = np.maximum(hidden, 0) if index < 2 else hidden
    assert relative_error(hidden, q_values) < 1e-5


def test_features_of_convolutions_are_permuted(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    parameters: dict[str, Any] = {}
    for index, shape in enumerate(((8, 8, 4, 6), (4, 4, 6, 5), (3, 3, 5, 7))):
        kernel = (generator.normal(size=shape) / np.prod(shape[:3]) ** 0.5).astype(np.float32)
        parameters[f"Conv_{index}"] = {"kernel": kernel, "bias": np.ones(shape[3], np.float32)}
    parameters |= layers(7 * 7 * 7, 9, 3)
    states, q_values = found(write(tmp_path / "x", {"params": parameters}), FRAMES)
    hidden = torch.tensor(states).float() / 255.0
    for (name, layer), stride in zip(parameters.items(), (4, 2, 1, 0, 0), strict=True):
        kernel, bias = torch.tensor(layer["kernel"]), torch.tensor(layer["bias"])
        if stride:
            hidden = F.relu(F.conv2d(hidden, kernel.permute(3, 2, 0, 1), bias, stride))
            continue
        if name == "Dense_0":
            hidden = hidden.permute(0, 2, 3, 1).flatten(1)
        hidden = hidden @ kernel + bias
        hidden = F.relu(hidden) if name == "Dense_0" else hidden
    assert relative_error(hidden.numpy(), q_values) < 1e-5


def test_a_distribution_becomes_its_mean(tmp_path: Path) -> None:
    arguments = {"n_atoms": 7, "v_min": -3, "v_max": 3.0, "env_id": "CartPole-v1"}
    path = write(tmp_path / "x", {"model_weights": {"params": layers(4, 6, 14)}, "args": arguments})
    source = read_flax(path)
    assert (source.algorithm, source.actions) == ("C51", 2)
    assert source.environment is not None
    _, q_values = found(path, VECTOR)
    assert np.abs(q_values).max() < 3


def test_the_kind_of_file_is_known_by_its_beginning(tmp_path: Path) -> None:
    assert is_msgpack(write(tmp_path / "x", {"params": layers(4, 2)}).read_bytes())
    assert not is_msgpack(b"PK\x03\x04kernel")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"params": {"LayerNorm_0": {"scale": np.ones(2, np.float32)}}}, "'LayerNorm_0'"),
        ({"params": {}}, "received none"),
        ({"params": {"Dense_0": {"kernel": np.ones((2, 3), np.float32),
                                 "bias": np.ones(2, np.float32)}}}, r"a kernel \(2, 3\)"),
        ({"params": {"Dense_0": {"kernel": np.full((2, 3), np.nan, np.float32),
                                 "bias": np.ones(3, np.float32)}}}, "nan in 'Dense_0.kernel'"),
        ({"actor_params": {}, "critic_params": {}}, "one of PPO"),
        ({"model_weights": {"params": layers(4, 6)}, "args": {"n_atoms": 5}}, "v_min=None"),
        ({"model_weights": {"params": layers(4, 6)},
          "args": {"n_atoms": 5, "v_min": 0, "v_max": 1}}, "5 atoms per action"),
        ("text", "a str"),
    ],
)  # fmt: skip
def test_other_parameters_are_refused(tmp_path: Path, value: Any, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        read_flax(write(tmp_path / "x", value))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x", {"params": layers(4, 2)})
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InvalidInputError, match="ends early; copy it again"):
        read_flax(path)
