"""`.cleanrl_model` files: DQN, C51, PQN and Rainbow of CleanRL, for vectors and for frames.

DQN and PQN save a state dict, C51 a dict with `model_weights` and `args`. Their networks are one
`Sequential` named `network`; Rainbow's streams are `value_head` and `advantage_head`. Images are
divided by 255 in the forward pass. The files of the JAX scripts are in `flax_form.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from slimq.core.environment import EnvironmentSpec
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QValues
from slimq.importing.cleanrl.flax_form import is_msgpack, read_flax
from slimq.importing.environments import environment_of
from slimq.importing.files.reading import read_file
from slimq.importing.files.tensors import load_tensors, sizes, state_dict
from slimq.importing.networks.architecture import Architecture, Dense, Stack, build, channels_last
from slimq.importing.networks.sequential import Step, check_numbers, run, stack_of, steps_of
from slimq.importing.source import Fitted, Source, describe_layout, refuse
from slimq.networks.specification import Atoms

HEADS = ("value_head.", "advantage_head.")
"""Names of Rainbow's streams."""
SUPPORTS = ("atoms", "support")
"""Buffers with the values of the atoms, in C51 and in Rainbow."""


@dataclass(frozen=True)
class CleanModel:
    """A network of CleanRL.

    Attributes:
        file: name of the file in errors.
        network: modules of the common part, which may end with the last layer.
        advantage: modules of Rainbow's advantage; empty for others.
        value: modules of its value.
        support: values of the atoms; None for plain Q-values.
        actions: number of actions.
    """

    file: str
    network: Sequence[Step]
    advantage: Sequence[Step]
    value: Sequence[Step]
    support: Tensor | None
    actions: int

    @property
    def is_convolutional(self) -> bool:
        """Whether it takes images, which it divides by 255."""
        return self.network[0].weight.dim() == 4


def read_model(path: Path) -> Source:
    """Reads a `.cleanrl_model` file.

    Raises:
        InvalidInputError: it is damaged, of another algorithm, or needs code to be executed.
    """
    content, name = read_file(path), str(path)
    if content[:2] != b"PK" and is_msgpack(content):
        return read_flax(path)
    loaded = load_tensors(content, name)
    environment = None
    if isinstance(loaded, Mapping) and set(loaded) >= {"model_weights", "args"}:
        environment = environment_of(loaded["args"])
        loaded = loaded["model_weights"]
    return _from_weights(state_dict(loaded, name), environment, name)


def _from_weights(
    weights: dict[str, Tensor], environment: EnvironmentSpec | None, name: str
) -> Source:
    """A source from CleanRL's state dict."""
    _check_algorithm(weights, name)
    support = next((weights[key] for key in SUPPORTS if key in weights), None)
    if support is not None:
        _check_support(support, name)
    plain = {key: value for key, value in weights.items() if key not in SUPPORTS}
    network = steps_of({k: v for k, v in plain.items() if "_head." not in k}, "network.", name)
    dueling = any(key.startswith("advantage_head.") for key in plain)
    advantage = steps_of(plain, "advantage_head.", name) if dueling else []
    value = steps_of(plain, "value_head.", name) if dueling else []
    atoms = 1 if support is None else len(support)
    outputs = len((advantage or network)[-1].weight)
    if outputs % atoms:
        raise refuse(name, f"{atoms} atoms per action", f"{outputs} outputs")
    model = CleanModel(name, network, advantage, value, support, outputs // atoms)
    stack, activated = stack_of(network, name)
    if not activated:
        raise refuse(name, "an activation after every hidden layer", sizes(weights))
    return Source(
        format="cleanrl",
        algorithm=_name_of(model),
        actions=model.actions,
        fit=partial(_fit, model, stack),
        environment=environment,
        notes=("the noise of the weights is left out",) if _is_noisy(weights) else (),
    )


def _fit(model: CleanModel, stack: Stack, observation: ObservationSpec) -> Fitted:
    check_numbers(observation, model.file)
    if model.is_convolutional and observation.dtype != "uint8":
        received = describe_layout(observation)
        raise refuse(model.file, "uint8 images, which CleanRL divides by 255", received)
    if not model.advantage:
        stack, output = Stack(stack.convolutions, stack.dense[:-1]), stack.dense[-1:]
        streams: tuple[tuple[Dense, ...], ...] = (output, ())
    else:
        streams = tuple(stack_of(s, model.file)[0].dense for s in (model.advantage, model.value))
    architecture = Architecture(
        body=stack,
        output=streams[0],
        value=streams[1],
        activation="relu",
        atoms=None if model.support is None else atoms_of(model.support),
        divisor=255.0 if model.is_convolutional else 1.0,
    )
    network = build(architecture, observation, model.actions, model.file)
    return Fitted(network, None, partial(_q_values, model))


def _q_values(model: CleanModel, observations: Observations, /) -> QValues:
    """Q-values as CleanRL's classes compute them."""
    with torch.no_grad():
        values = torch.from_numpy(np.ascontiguousarray(observations)).float()
        if model.is_convolutional:
            if channels_last(tuple(values.shape[1:]), None, model.network[0].weight.shape[1]):
                values = values.permute(0, 3, 1, 2)
            values = values / 255.0
        hidden = run(model.network, values, F.relu)
        if model.advantage:
            hidden = F.relu(hidden).flatten(1)
            atoms = 1 if model.support is None else len(model.support)
            advantage = run(model.advantage, hidden, F.relu).view(len(hidden), -1, atoms)
            value = run(model.value, hidden, F.relu).view(len(hidden), 1, atoms)
            hidden = (value + advantage - advantage.mean(dim=1, keepdim=True)).flatten(1)
        if model.support is not None:
            hidden = expectation(hidden, model.support, model.actions)
    q_values: QValues = hidden.numpy()
    return q_values


def expectation(logits: Tensor, support: Tensor, actions: int) -> Tensor:
    """The mean of each action's distribution, `(batch, actions)`."""
    probabilities = torch.softmax(logits.view(len(logits), actions, len(support)), dim=2)
    return (probabilities * support).sum(2)


def atoms_of(support: Tensor) -> Atoms:
    """Evenly spaced atoms as slimq specifies them."""
    return Atoms(count=len(support), low=float(support[0]), high=float(support[-1]))


def _check_support(support: Tensor, file: str) -> None:
    if support.dim() == 1 and len(support) > 1 and bool(support[0] < support[-1]):
        evenly = torch.linspace(float(support[0]), float(support[-1]), len(support))
        if torch.allclose(support, evenly, atol=1e-4 * float(support.abs().max())):
            return
    raise refuse(file, "evenly spaced atoms", f"a support of shape {tuple(support.shape)}")


def _check_algorithm(weights: Mapping[str, Tensor], file: str) -> None:
    others = {"actor": "PPO", "critic": "PPO", "qf1": "SAC", "fc_mean": "SAC", "agent": "PPO"}
    for name in weights:
        if (algorithm := others.get(name.split(".")[0])) is not None:
            received = f"one of an actor-critic method, such as {algorithm} ({name[:64]})"
            raise refuse(file, "a network with a Q-value per action", received)
    if not any(name.startswith("network.") for name in weights):
        remedy = "give the network with --framework torch --network FILE.toml"
        raise refuse(file, "layers named network.0 and so on", sizes(weights), remedy)
    dueling = all(any(n.startswith(head) for n in weights) for head in HEADS)
    known = ("network.", *HEADS) if dueling else ("network.",)
    for name in weights:
        if not name.startswith(known) and name not in SUPPORTS:
            remedy = (
                "give the network with --framework torch --network FILE.toml, or export to ONNX"
            )
            raise refuse(file, "only the layers of a network of CleanRL", repr(name[:64]), remedy)


def _name_of(model: CleanModel) -> str:
    if model.advantage:
        return "Rainbow"
    if model.support is not None:
        return "C51"
    return "PQN" if any(step.is_norm for step in model.network) else "DQN"


def _is_noisy(weights: Mapping[str, Tensor]) -> bool:
    return any(name.endswith("_sigma") for name in weights)
