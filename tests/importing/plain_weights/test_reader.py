from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from policy_files import dense, forward, save
from slimq.core.errors import ConfigError, InvalidInputError
from slimq.core.observation import ObservationSpec
from slimq.importing.checking import draw_observations, relative_error
from slimq.importing.plain_weights.reader import read_weights
from slimq.importing.source import Hints
from slimq.networks.checkpoint import save_network
from slimq.networks.qnetwork import QNetwork
from slimq.networks.torch_policy import TorchPolicy
from small_networks import SPECS

VECTOR = ObservationSpec(dtype="float32", shape=(4,))


def described(tmp_path: Path, text: str) -> Hints:
    path = tmp_path / "network.toml"
    path.write_text(text)
    return Hints(network=path)


def check(path: Path, hints: Hints, observation: ObservationSpec = VECTOR) -> tuple[Any, Any]:
    source = read_weights(path, hints)
    fitted = source.fit(observation)
    states = draw_observations(observation, 5)
    assert fitted.network is not None
    q_values = TorchPolicy(fitted.network)(states)
    assert q_values.shape[1] == source.actions
    assert relative_error(fitted.reference(states), q_values) < 1e-5
    return states, q_values


@pytest.mark.parametrize("prefix", ["", "net.", "q.net."])
@pytest.mark.parametrize("safe", [False, True])
def test_a_sequence_needs_only_its_activation(tmp_path: Path, prefix: str, safe: bool) -> None:
    layers = dense(4, 6, 5, 2)
    weights = {f"{prefix}{key}": value for key, value in layers.items()}
    path = tmp_path / "x"
    if safe:
        save_file(weights, path)
    else:
        save(path, weights)
    states, q_values = check(path, Hints(activation="tanh"))
    assert relative_error(forward(layers, states, torch.tanh), q_values) < 1e-5
    with pytest.raises(InvalidInputError, match="give --activation, or give the network"):
        read_weights(path, Hints())


def test_a_linear_policy_needs_no_activation(tmp_path: Path) -> None:
    check(save(tmp_path / "x", dense(4, 2)), Hints())


def test_names_are_matched_in_order(tmp_path: Path) -> None:
    layers = dense(4, 6, 5, 2)
    names = {"0": "fc1", "2": "fc2", "4": "out"}
    weights = {f"{names[k[0]]}{k[1:]}": v for k, v in reversed(layers.items())}
    hints = described(tmp_path, '[network]\nkind = "mlp"\nhidden = [6, 5]\nactivation = "elu"\n')
    states, q_values = check(save(tmp_path / "x", {"state_dict": weights}), hints)
    assert relative_error(forward(layers, states, nn.ELU()), q_values) < 1e-5


def test_dueling_streams_are_found_by_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "advantage": nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)),
            "body": nn.Linear(4, 6),
            "value": nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1)),
        }
    )
    text = '[network]\nkind = "mlp"\nhidden = [6]\n[head]\ndueling = true\nhidden = [5]\n'
    path = save(tmp_path / "x", model.state_dict())
    states, q_values = check(path, described(tmp_path, text))
    with torch.no_grad():
        hidden = torch.relu(model["body"](torch.tensor(states)))
        advantage = model["advantage"](hidden)
        expected = model["value"](hidden) + advantage - advantage.mean(1, keepdim=True)
    assert relative_error(expected.numpy(), q_values) < 1e-5


def test_convolutions_with_batch_normalization(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                          nn.Linear(4 * 4 * 4, 3))  # fmt: skip
    model[1].running_mean.uniform_()
    model[1].running_var.uniform_(0.5, 2)
    text = """
    divisor = 10.0
    [network]
    kind = "conv"
    convolutions = [{channels = 4, kernel = 3, stride = 2, batch_norm = true}]
    hidden = []
    """
    observation = ObservationSpec(dtype="uint8", shape=(2, 10, 10))
    path = save(tmp_path / "x", model.eval().state_dict())
    states, q_values = check(path, described(tmp_path, text), observation)
    with torch.no_grad():
        expected = model(torch.tensor(states).float() / 10).numpy()
    assert relative_error(expected, q_values) < 1e-5


def test_a_checkpoint_of_slimq_contains_its_network(tmp_path: Path) -> None:
    for name in ("mlp", "conv"):
        network = QNetwork(SPECS[name]).eval()
        (tmp_path / "x").write_bytes(save_network(network))
        spec = SPECS[name]
        layout = ObservationSpec(dtype=spec.observation_dtype, shape=spec.observation_shape)
        states, q_values = check(tmp_path / "x", Hints(), layout)
        assert relative_error(TorchPolicy(network)(states), q_values) < 1e-6


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[network]\nkind = "mlp"\nhidden = [6]\n', "expected 2 layers with weights, received 3"),
        ('[network]\nkind = "mlp"\nhidden = [6, 4]\n', r"weight \(4, 6\).*received 2 with"),
        ('[network]\nkind = "conv"\nconvolutions = [{channels = 2, kernel = 2}]\nhidden = []\n',
         "observations that fit the network"),
    ],
)  # fmt: skip
def test_a_network_that_does_not_fit_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    source = read_weights(save(tmp_path / "x", dense(4, 6, 5, 2)), described(tmp_path, text))
    with pytest.raises(InvalidInputError, match=problem):
        source.fit(VECTOR)


def test_mistakes_in_the_network_file_are_named(tmp_path: Path) -> None:
    hints = described(tmp_path, '[network]\nkind = "mlp"\nhiden = [6]\n')
    with pytest.raises(ConfigError, match=r"network.*unknown key 'hiden'"):
        read_weights(save(tmp_path / "x", dense(4, 2)), hints)


@pytest.mark.parametrize(
    "weights",
    [
        {"a.0.weight": torch.ones(2, 2), "b.0.weight": torch.ones(2, 2)},
        {"0.weight": torch.ones(2, 2, 3, 3), "0.bias": torch.ones(2)},
    ],
)
def test_other_weights_need_a_network_file(tmp_path: Path, weights: Any) -> None:
    with pytest.raises(InvalidInputError, match="give the network with --network"):
        read_weights(save(tmp_path / "x", weights), Hints(activation="relu"))
