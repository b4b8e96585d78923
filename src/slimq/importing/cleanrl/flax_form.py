"""`.cleanrl_model` files of CleanRL's JAX scripts, as `flax.serialization.to_bytes` writes them.

Parameters are `Dense_0`, `Conv_0` and so on, with a `kernel` and a `bias`. A dense kernel is
`(in, out)`, a convolution's `(rows, columns, in, out)`. Images have their channels last, so the
first dense layer after the convolutions reads rows, columns, channels; its inputs are permuted.
C51 saves a dict with `model_weights` and `args`. Nothing of flax is needed to read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QValues
from slimq.importing.environments import environment_of
from slimq.importing.files.msgpack import MessagePackError, read_msgpack
from slimq.importing.files.reading import read_file
from slimq.importing.files.tensors import checked
from slimq.importing.networks.architecture import (
    Architecture,
    Convolution,
    Dense,
    Stack,
    build,
    channels_last,
)
from slimq.importing.networks.sequential import STRIDES
from slimq.importing.source import Fitted, Source, describe_layout, refuse
from slimq.networks.layers import ConvLayer, shape_after
from slimq.networks.specification import Atoms

ATOM_ARGUMENTS = ("n_atoms", "v_min", "v_max")


@dataclass(frozen=True)
class FlaxModel:
    """A network of CleanRL's JAX scripts.

    Attributes:
        file: name of the file in errors.
        kernels: kernel and bias of each layer in order, as flax has them.
        atoms: the distribution; None for plain Q-values.
        actions: number of actions.
    """

    file: str
    kernels: Sequence[tuple[Tensor, Tensor]]
    atoms: Atoms | None
    actions: int

    @property
    def convolutions(self) -> int:
        """Number of convolutions, which come first."""
        return sum(kernel.dim() == 4 for kernel, _ in self.kernels)


def is_msgpack(content: bytes) -> bool:
    """Whether a file is a MessagePack map, as flax writes parameters."""
    return content[:1] in {bytes((code,)) for code in (*range(0x80, 0x90), 0xDE, 0xDF)} and (
        b"kernel" in content
    )


def read_flax(path: Path) -> Source:
    """Reads parameters that flax wrote.

    Raises:
        InvalidInputError: the file is damaged, or its layers are not those of CleanRL.
    """
    content, name = read_file(path), str(path)
    try:
        found = read_msgpack(content)
    except MessagePackError as error:
        expected = "parameters that flax.serialization.to_bytes wrote"
        raise refuse(name, expected, f"a file that {error}", "copy it again") from error
    arguments: Mapping[str, Any] = {}
    if isinstance(found, Mapping) and "model_weights" in found:
        arguments = found["args"] if isinstance(found.get("args"), Mapping) else {}
        found = found["model_weights"]
    if isinstance(found, Mapping) and set(found) == {"params"}:
        found = found["params"]
    kernels = _kernels(found, name)
    outputs = kernels[-1][0].shape[-1]
    atoms = _atoms(arguments, name)
    count = atoms.count if atoms else 1
    if outputs % count:
        raise refuse(name, f"{count} atoms per action", f"{outputs} outputs")
    model = FlaxModel(name, kernels, atoms, outputs // count)
    return Source(
        format="cleanrl-flax",
        algorithm="C51" if atoms else "DQN",
        actions=model.actions,
        fit=partial(_fit, model),
        environment=environment_of(arguments),
    )


def _kernels(found: Any, file: str) -> list[tuple[Tensor, Tensor]]:
    """Kernels and biases in order: convolutions by number, then dense layers by number."""
    expected = "layers Conv_0, Dense_0 and so on, each with a kernel and a bias"
    if not isinstance(found, Mapping):
        raise refuse(file, expected, f"a {type(found).__name__}")
    if any(str(name).startswith(("network_params", "actor", "critic")) for name in found):
        raise refuse(file, "a network with a Q-value per action", "one of PPO")
    order = []
    for name, layer in found.items():
        kind, _, number = str(name).partition("_")
        known = kind in ("Conv", "Dense") and number.isdecimal() and isinstance(layer, Mapping)
        if not known or set(layer) != {"kernel", "bias"}:
            raise refuse(file, expected, f"{str(name)[:64]!r}", "export it to ONNX")
        kernel, bias = (checked(layer[k], f"{name}.{k}", file) for k in ("kernel", "bias"))
        if kernel.dim() != (4 if kind == "Conv" else 2) or bias.shape != kernel.shape[-1:]:
            raise refuse(file, expected, f"{name} with a kernel {tuple(kernel.shape)}")
        order.append((kind, int(number), kernel, bias))
    order.sort(key=lambda one: one[:2])
    if not order or order[-1][0] != "Dense":
        raise refuse(file, expected, ", ".join(map(str, found)) or "none")
    sizes = tuple(kernel.shape[0] for kind, _, kernel, _ in order if kind == "Conv")
    if sizes and sizes not in STRIDES:
        received = f"kernels {', '.join(map(str, sizes))}"
        raise refuse(file, "kernels 8, 4, 3, whose strides are known", received)
    return [(kernel, bias) for _, _, kernel, bias in order]


def _atoms(arguments: Mapping[str, Any], file: str) -> Atoms | None:
    if "n_atoms" not in arguments:
        return None
    try:
        count, low, high = (float(arguments[key]) for key in ATOM_ARGUMENTS)
        return Atoms(count=int(count), low=low, high=high)
    except (KeyError, ValueError, TypeError) as error:
        listing = ", ".join(f"{key}={arguments.get(key)!r}"[:64] for key in ATOM_ARGUMENTS)
        raise refuse(file, "n_atoms, v_min and v_max in args", listing) from error


def _fit(model: FlaxModel, observation: ObservationSpec) -> Fitted:
    if any(part.categories is not None for part in observation.parts or ()):
        received = describe_layout(observation)
        raise refuse(model.file, "observations of numbers", received)
    count = model.convolutions
    if count and (observation.dtype != "uint8" or len(observation.shape) != 3):
        raise refuse(model.file, "uint8 images", describe_layout(observation))
    strides = STRIDES.get(tuple(kernel.shape[0] for kernel, _ in model.kernels[:count]), ())
    convolutions = tuple(
        Convolution(kernel.permute(3, 2, 0, 1).contiguous(), bias, stride)
        for (kernel, bias), stride in zip(model.kernels[:count], strides, strict=True)
    )
    dense = [Dense(kernel.T.contiguous(), bias) for kernel, bias in model.kernels[count:]]
    if count:
        dense[0] = _reorder(dense[0], convolutions, observation, model.file)
    architecture = Architecture(
        body=Stack(convolutions, tuple(dense[:-1])),
        output=(dense[-1],),
        activation="relu",
        atoms=model.atoms,
        divisor=255.0 if count else 1.0,
    )
    network = build(architecture, observation, model.actions, model.file)
    return Fitted(network, None, partial(_q_values, model))


def _reorder(
    dense: Dense, convolutions: Sequence[Convolution], observation: ObservationSpec, file: str
) -> Dense:
    """Permutes the inputs of the first dense layer from rows, columns, channels."""
    channels = convolutions[0].weight.shape[1]
    shape = observation.shape
    if channels_last(shape, None, channels):
        shape = (shape[2], *shape[:2])
    size = (shape[0], shape[1], shape[2])
    try:
        for layer in convolutions:
            width, kernel = layer.weight.shape[0], layer.weight.shape[2]
            size = shape_after(
                ConvLayer(channels=width, kernel=kernel, stride=layer.stride), size, "convolution"
            )
    except ValueError as error:
        raise refuse(file, "images that fit the network", describe_layout(observation)) from error
    features, rows, columns = size
    if features * rows * columns != dense.weight.shape[1]:
        expected = f"images that give {dense.weight.shape[1]} features"
        raise refuse(
            file, expected, f"{describe_layout(observation)} with {features * rows * columns}"
        )
    places = torch.arange(features * rows * columns).reshape(rows, columns, features)
    order = places.permute(2, 0, 1).flatten()
    return Dense(dense.weight[:, order].contiguous(), dense.bias)


def _q_values(model: FlaxModel, observations: Observations, /) -> QValues:
    """Q-values as flax computes them: images with the channels last, kernels as stored."""
    values = torch.from_numpy(np.ascontiguousarray(observations)).float()
    count = model.convolutions
    with torch.no_grad():
        if count:
            channels = model.kernels[0][0].shape[2]
            if not channels_last(tuple(values.shape[1:]), None, channels):
                values = values.permute(0, 2, 3, 1)
            values = values / 255.0
            strides = STRIDES[tuple(kernel.shape[0] for kernel, _ in model.kernels[:count])]
            for (kernel, bias), stride in zip(model.kernels[:count], strides, strict=True):
                # unfold gives (batch, in · rows · columns, places), the patches of a convolution
                side, width = kernel.shape[0], kernel.shape[3]
                patches = F.unfold(values.permute(0, 3, 1, 2), side, stride=stride)
                rows = (values.shape[1] - side) // stride + 1
                flat = kernel.permute(2, 0, 1, 3).reshape(-1, width)
                out = patches.transpose(1, 2) @ flat + bias
                values = torch.relu(out.reshape(len(values), rows, -1, width))
        values = values.reshape(len(values), -1)
        for index, (kernel, bias) in enumerate(model.kernels[count:]):
            values = values @ kernel + bias
            if count + index + 1 < len(model.kernels):
                values = torch.relu(values)
        if model.atoms is not None:
            support = torch.linspace(model.atoms.low, model.atoms.high, model.atoms.count)
            logits = values.reshape(len(values), model.actions, model.atoms.count)
            values = (logits.softmax(dim=-1) * support).sum(-1)
    q_values: QValues = values.numpy()
    return q_values
