"""Plain weights: a torch state dict or safetensors, with a network file or as a simple sequence.

Layers are matched in order. Names with `adv` are those of a dueling head's advantage, names with
`val` its value. Without a network file, only a sequence of dense layers can be recognised, and the
activation has to be given: weights do not show it. A checkpoint of slimq contains its network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QValues
from slimq.importing.files.reading import read_file
from slimq.importing.files.tensors import load_safe, load_tensors, sizes, state_dict
from slimq.importing.networks.activations import FUNCTIONS
from slimq.importing.networks.architecture import Architecture, Stack, build
from slimq.importing.networks.sequential import Step, check_numbers, run, stack_of, steps_of
from slimq.importing.plain_weights.forward import SpecificationPolicy
from slimq.importing.plain_weights.network_file import NetworkFile, read_network_file
from slimq.importing.source import Fitted, Hints, Source, refuse
from slimq.networks.heads import Head
from slimq.networks.qnetwork import QNetwork
from slimq.networks.specification import Activation, QNetworkSpec

KINDS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
METADATA = "slimq.network"
"""Where slimq's checkpoints hold their network's specification."""
WEIGHTED = (nn.Conv2d, nn.Linear, nn.LayerNorm, nn.BatchNorm2d)
Group = dict[str, Tensor]
"""The tensors of one module by kind."""


def read_weights(path: Path, hints: Hints) -> Source:
    """Reads a torch state dict or safetensors.

    Raises:
        InvalidInputError: the file is damaged, needs code to be executed, or its tensors do not
            fit the network.
        ConfigError: the network file is invalid.
    """
    content, name = read_file(path), str(path)
    safe = is_safetensors(content)
    loaded = load_safe(content, name) if safe else load_tensors(content, name)
    if isinstance(loaded, Mapping):
        for key in ("state_dict", "model_state_dict", "q_network", "model"):
            if isinstance(loaded.get(key), Mapping):
                loaded = loaded[key]
                break
    weights = state_dict(loaded, name)
    form = "safetensors" if safe else "torch"
    if safe and (spec := _own_specification(content)) is not None:
        return _from_slimq(spec, weights, name)
    if hints.network is not None:
        return _from_file(weights, read_network_file(hints.network), form, name)
    return _from_sequence(weights, hints, form, name)


def is_safetensors(content: bytes) -> bool:
    """Whether a file begins as safetensors do: the length of a JSON header, then the header."""
    length = int.from_bytes(content[:8], "little")
    return 2 <= length <= len(content) - 8 and content[8:9] == b"{"


def _own_specification(content: bytes) -> QNetworkSpec | None:
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    try:
        return QNetworkSpec.model_validate_json(json.loads(header)["__metadata__"][METADATA])
    except (ValidationError, ValueError, KeyError, TypeError):
        return None


def _from_slimq(spec: QNetworkSpec, weights: dict[str, Tensor], name: str) -> Source:
    layout = ObservationSpec(
        dtype=spec.observation_dtype, shape=spec.observation_shape, parts=spec.observation_parts
    )

    def fit(observation: ObservationSpec) -> Fitted:
        if (observation.dtype, observation.shape) != (layout.dtype, layout.shape):
            expected = f"observations {layout.dtype} {layout.shape}"
            raise refuse(name, expected, f"{observation.dtype} {observation.shape}")
        return _fitted(QNetwork(spec), weights, name)

    return Source("slimq", "DQN", spec.actions, fit, layout)


def _from_file(weights: dict[str, Tensor], described: NetworkFile, form: str, name: str) -> Source:
    groups = _groups(weights, name)
    streams = [key for key in groups if "adv" in key.lower()] if described.head.dueling else []
    last = streams or list(groups)
    outputs = groups[last[-1]]["weight"].shape[0]
    atoms = described.head.atoms.count if described.head.atoms else 1
    actions = described.actions or outputs // atoms

    def fit(observation: ObservationSpec) -> Fitted:
        try:
            spec = QNetworkSpec(
                body=described.network,
                observation_shape=observation.shape,
                observation_dtype=observation.dtype,
                observation_parts=observation.parts,
                divisor=described.divisor,
                divisors=described.divisors,
                actions=actions,
                head=described.head,
            )
        except ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise refuse(name, "observations that fit the network", problem) from error
        return _fitted(QNetwork(spec), weights, name)

    return Source(form, "DQN", actions, fit, described.observation)


def _fitted(network: QNetwork, weights: dict[str, Tensor], name: str) -> Fitted:
    if set(weights) == set(network.state_dict()):
        order = _by_name(network, weights)
    else:
        order = _by_order(network, _groups(weights, name))
    modules = _modules(network)
    for kind, groups in order.items():
        _copy_modules(modules[kind], groups, name)
    if network.normalize is not None:
        for key, value in network.normalize.state_dict().items():
            value.copy_(weights[f"normalize.{key}"])
    layers = {kind: [group for _, group in groups] for kind, groups in order.items()}
    statistics = {key: weights[key] for key in weights if key.startswith("normalize.")}
    reference = SpecificationPolicy(network.spec, layers, statistics)
    return Fitted(network.eval(), None, reference)


Streams = dict[str, list[tuple[str, Group]]]
"""Names and tensors of the modules of the body, and of a dueling head's value and advantage."""


def _modules(network: QNetwork) -> dict[str, list[nn.Module]]:
    """The modules of a network in the same streams."""
    body: list[nn.Module] = [network.features]
    value: list[nn.Module] = []
    advantage: list[nn.Module] = []
    if not isinstance(network.head, Head):
        body.append(network.head)
    elif network.head.value is None:
        body.append(network.head.advantage)
    else:
        value, advantage = [network.head.value], [network.head.advantage]
    return {"body": body, "value": value, "advantage": advantage}


def _by_name(network: QNetwork, weights: dict[str, Tensor]) -> Streams:
    """The modules by slimq's own names."""
    names = {id(module): name for name, module in network.named_modules()}
    return {
        kind: [
            (names[id(m)], _under(weights, names[id(m)]))
            for module in modules
            for m in module.modules()
            if isinstance(m, WEIGHTED)
        ]
        for kind, modules in _modules(network).items()
    }


def _under(weights: dict[str, Tensor], name: str) -> Group:
    return {k.rpartition(".")[2]: v for k, v in weights.items() if k.rpartition(".")[0] == name}


def _by_order(network: QNetwork, groups: dict[str, Group]) -> Streams:
    """The modules by the order of other names."""
    dueling = isinstance(network.head, Head) and network.head.value is not None
    streams: Streams = {"body": [], "value": [], "advantage": []}
    for key, group in groups.items():
        word = key.lower()
        kind = "advantage" if "adv" in word else "value" if "val" in word else "body"
        streams[kind if dueling else "body"].append((key, group))
    return streams


def _groups(weights: Mapping[str, Tensor], name: str) -> dict[str, Group]:
    """Tensors by module, in the file's order of names with numbers taken as numbers."""
    groups: dict[str, Group] = {}
    for key, value in weights.items():
        module, _, kind = key.rpartition(".")
        if kind not in KINDS:
            remedy = "keep only the tensors of the Q-network"
            raise refuse(name, f"tensors named .{' or .'.join(KINDS[:2])}", f"{key[:64]!r}", remedy)
        groups.setdefault(module, {})[kind] = value
    return dict(sorted(groups.items(), key=lambda item: _natural(item[0])))


def _natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key that takes numbers as numbers, and output layers last."""
    words = [part for part in re.split(r"(\d+)", text) if part]
    order = (text.lower().startswith(("head", "out", "q_values", "last"))) + 0
    return [(order, 0, ""), *((0, int(w), "") if w.isdecimal() else (1, 0, w) for w in words)]


def _copy_modules(modules: list[nn.Module], groups: list[tuple[str, Group]], name: str) -> None:
    targets = [m for module in modules for m in module.modules() if isinstance(m, WEIGHTED)]
    if len(targets) != len(groups):
        listing = ", ".join(key for key, _ in groups) or "none"
        raise refuse(name, f"{len(targets)} layers with weights", f"{len(groups)}: {listing}")
    for target, (key, group) in zip(targets, groups, strict=True):
        own = {k: v for k, v in target.state_dict().items() if k != "num_batches_tracked"}
        given = {k: v for k, v in group.items() if k != "num_batches_tracked"}
        if "bias" in own and "bias" not in given:
            given["bias"] = torch.zeros_like(own["bias"])
        shapes = [{k: tuple(v.shape) for k, v in one.items()} for one in (own, given)]
        if shapes[0] != shapes[1]:
            received = f"{key} with {_shapes(shapes[1])}"
            expected = f"{_shapes(shapes[0])} for this layer and these observations"
            raise refuse(name, expected, received)
        target.load_state_dict(given, strict=False)


def _shapes(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{kind} {shape}" for kind, shape in shapes.items())


def _from_sequence(weights: dict[str, Tensor], hints: Hints, form: str, name: str) -> Source:
    """A sequence of dense layers, such as `net.0.weight`, `net.2.weight`."""
    remedy = "give the network with --network FILE.toml"
    prefixes = {key.rsplit(".", 2)[0] if key.count(".") > 1 else "" for key in weights}
    prefix = f"{prefixes.pop()}." if prefixes != {""} and len(prefixes) == 1 else ""
    if prefixes - {""} or any(v.dim() > 2 for v in weights.values()):
        raise refuse(name, "a network file for these layers", sizes(weights), remedy)
    steps = steps_of(weights, prefix, name)
    stack, activated = stack_of(steps, name)
    hidden = len(stack.dense) > 1
    if hidden and (hints.activation is None or not activated):
        received = "weights, which do not show the activation between layers"
        extra = f"give --activation, or {remedy}" if activated else remedy
        raise refuse(name, "a network whose activation is known", received, extra)
    activation: Activation = hints.activation or "relu"
    architecture = Architecture(
        body=Stack(dense=stack.dense[:-1]), output=stack.dense[-1:], activation=activation,
        divisor=1.0,
    )  # fmt: skip
    actions = stack.dense[-1].weight.shape[0]

    def fit(observation: ObservationSpec) -> Fitted:
        check_numbers(observation, name)
        network = build(architecture, observation, actions, name)
        return Fitted(network, None, partial(_run_sequence, steps, activation))

    return Source(form, "DQN", actions, fit)


def _run_sequence(
    steps: list[Step], activation: Activation, observations: Observations, /
) -> QValues:
    with torch.no_grad():
        values: Any = torch.from_numpy(np.ascontiguousarray(observations)).float().flatten(1)
        q_values: QValues = run(steps, values, FUNCTIONS[activation]).numpy()
    return q_values
