from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from policy_files import Module, Payload, dense, forward, save
from slimq.core.errors import InvalidInputError
from slimq.core.observation import ObservationPart, ObservationSpec
from slimq.importing.checking import draw_observations, relative_error
from slimq.importing.cleanrl.torch_form import read_model
from slimq.networks.torch_policy import TorchPolicy

VECTOR = ObservationSpec(dtype="float32", shape=(4,))
FRAMES = ObservationSpec(dtype="uint8", shape=(4, 84, 84), low=0, high=255)


def named(layers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"network.{key}": value for key, value in layers.items()}


def atari(outputs: int, *, norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    norms = [(32, 20, 20), (64, 9, 9), (64, 7, 7), (16,)]
    layers: list[nn.Module] = []
    for index, layer in enumerate(
        (nn.Conv2d(4, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3), nn.Linear(3136, 16))
    ):
        layers += [*([nn.Flatten()] if index == 3 else []), layer]
        layers += [*([nn.LayerNorm(norms[index])] if norm else []), nn.ReLU()]
    model = nn.Module()
    model.network = nn.Sequential(*layers, nn.Linear(16, outputs))
    return model


def found(path: Path, observation: ObservationSpec) -> tuple[Any, Any, Any]:
    """States, slimq's Q-values, and the name of the algorithm."""
    source = read_model(path)
    states = draw_observations(observation, 4)
    fitted = source.fit(observation)
    assert fitted.network is not None
    q_values = TorchPolicy(fitted.network)(states)
    assert relative_error(fitted.reference(states), q_values) < 1e-5
    return states, q_values, source.algorithm


def test_dqn_for_vectors(tmp_path: Path) -> None:
    layers = dense(4, 12, 8, 2)
    states, q_values, algorithm = found(save(tmp_path / "x.cleanrl_model", named(layers)), VECTOR)
    assert algorithm == "DQN"
    assert relative_error(forward(layers, states), q_values) < 1e-5


@pytest.mark.parametrize(("norm", "name"), [(False, "DQN"), (True, "PQN")])
def test_frames_are_scaled_and_layers_normalized(tmp_path: Path, norm: bool, name: str) -> None:
    model = atari(6, norm=norm)
    path = save(tmp_path / "x.cleanrl_model", model.state_dict())
    states, q_values, algorithm = found(path, FRAMES)
    with torch.no_grad():
        expected = model.network(torch.tensor(states).float() / 255.0).numpy()
    assert algorithm == name
    assert relative_error(expected, q_values) < 1e-5


def test_a_distribution_becomes_its_mean_and_the_environment_is_known(tmp_path: Path) -> None:
    layers, support = dense(4, 12, 2 * 11), torch.linspace(-5, 5, 11)
    weights = {"atoms": support, **named(layers)}
    model = {"model_weights": weights, "args": {"env_id": "CartPole-v1"}}
    path = save(tmp_path / "x.cleanrl_model", model)
    states, q_values, algorithm = found(path, VECTOR)
    logits = torch.tensor(forward(layers, states)).view(-1, 2, 11)
    expected = (logits.softmax(2) * support).sum(2).numpy()
    assert algorithm == "C51"
    assert relative_error(expected, q_values) < 1e-5
    environment = read_model(path).environment
    assert environment is not None
    assert environment.id == "CartPole-v1"


def test_rainbow_is_dueling_and_loses_its_noise(tmp_path: Path) -> None:
    weights = {k: v for k, v in atari(1).state_dict().items() if int(k.split(".")[1]) < 6}
    torch.manual_seed(1)
    for head, outputs in (("value_head", 5), ("advantage_head", 15)):
        for index, size in ((0, (8, 3136)), (2, (outputs, 8))):
            for kind, shape in (("weight", size), ("bias", size[:1])):
                weights[f"{head}.{index}.{kind}_mu"] = torch.randn(shape) * 0.1
                weights[f"{head}.{index}.{kind}_sigma"] = torch.ones(shape)
    weights["support"] = torch.linspace(-10, 10, 5)
    path = save(tmp_path / "x.cleanrl_model", weights)
    _, q_values, algorithm = found(path, FRAMES)
    assert algorithm == "Rainbow"
    assert q_values.shape == (4, 3)
    assert read_model(path).notes == ("the noise of the weights is left out",)


def test_observations_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.cleanrl_model", named(dense(4, 8, 2)))
    with pytest.raises(InvalidInputError, match=r"expected weights \(8, 5\) .*received \(8, 4\)"):
        read_model(path).fit(ObservationSpec(dtype="float32", shape=(5,)))
    part = ObservationPart(name="x", shape=(), categories=(4,))
    codes = ObservationSpec(dtype="int32", shape=(1,), parts=(part,))
    with pytest.raises(InvalidInputError, match="observations of numbers, received x: categories"):
        read_model(path).fit(codes)
    frames = save(tmp_path / "y.cleanrl_model", atari(3).state_dict())
    with pytest.raises(InvalidInputError, match="uint8 images"):
        read_model(frames).fit(ObservationSpec(dtype="float32", shape=(4, 84, 84)))
    with pytest.raises(InvalidInputError, match=r"for these observations"):
        read_model(frames).fit(ObservationSpec(dtype="uint8", shape=(4, 64, 64)))


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ({"actor.0.weight": torch.ones(2, 2)}, r"actor-critic method, such as PPO"),
        ({"critic.weight": torch.ones(2, 2), "network.0.weight": torch.ones(2, 2)}, "such as PPO"),
        ({"fc_mean.weight": torch.ones(2, 2)}, "such as SAC"),
        ({"body.0.weight": torch.ones(2, 2)}, "--framework torch --network"),
        ({**named(dense(4, 8, 5)), "atoms": torch.linspace(0, 1, 3)}, "3 atoms per action"),
        ({**named(dense(4, 8, 6)), "atoms": torch.tensor([0.0, 5.0, 6.0])}, "evenly spaced"),
        ({**named(dense(4, 8, 6)), "atoms": torch.tensor(1.0)}, "evenly spaced"),
        ({"network.0.weight": torch.ones(8, 4, 5, 5)}, "kernels 5; give the network"),
        ({"network.0.weight": torch.ones(8, 4), "network.0.bias": torch.ones(7)}, "that fit"),
        ({"network.0.weight": torch.ones(8, 4), "network.1.weight": torch.ones(2, 8)},
         "an activation after every"),
        ({**named(dense(4, 8, 2)), "value.weight": torch.ones(2)}, "only the layers .*value.weig"),
        ({**named(dense(4, 8, 2)), "value_head.0.weight": torch.ones(2, 2)}, "only the layers"),
        ({**named(dense(4, 8, 2)), "network.x.weight": torch.ones(2)}, "network.x.weight"),
    ],
)  # fmt: skip
def test_other_networks_are_refused(tmp_path: Path, weights: Any, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        read_model(save(tmp_path / "x.cleanrl_model", weights))


def test_a_pickled_module_and_a_payload_are_refused(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for value in (Module(), {"network.0.weight": torch.ones(2, 2), "x": Payload(trace)}):
        with pytest.raises(InvalidInputError, match="nothing of it was executed"):
            read_model(save(tmp_path / "x.cleanrl_model", value))
    assert not trace.exists()


def test_images_with_the_channels_last_are_transposed(tmp_path: Path) -> None:
    path = save(tmp_path / "x.cleanrl_model", atari(3).state_dict())
    first, q_values, _ = found(path, FRAMES)
    last = ObservationSpec(dtype="uint8", shape=(84, 84, 4), low=0, high=255)
    fitted = read_model(path).fit(last)
    states = np.ascontiguousarray(first.transpose(0, 2, 3, 1))
    assert fitted.network is not None
    np.testing.assert_allclose(TorchPolicy(fitted.network)(states), q_values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fitted.reference(states), q_values, rtol=1e-4, atol=1e-5)
