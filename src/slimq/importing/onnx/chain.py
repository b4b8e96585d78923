"""Recognises ONNX graphs that are plain chains of layers, which slimq's own networks can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from slimq.core.observation import ObservationSpec
from slimq.importing.networks.architecture import Architecture, Convolution, Dense, Stack
from slimq.networks.export import INPUT, OUTPUT
from slimq.networks.specification import Activation

ACTIVATIONS: dict[str, tuple[Activation, dict[str, float]]] = {
    "Relu": ("relu", {}),
    "LeakyRelu": ("leaky_relu", {"alpha": 0.01}),
    "Elu": ("elu", {"alpha": 1.0}),
    "Tanh": ("tanh", {}),
    "Gelu": ("gelu", {}),
}
"""Operators with the constants of slimq's activations, which are ONNX's defaults, too."""


class _OtherError(Exception):
    """The graph is not a chain of layers that slimq has."""


@dataclass
class _Chain:
    """The layers so far.

    Attributes:
        divisor: of integers.
        image: shape of the image, channels first, after a transposition.
        activation: the one of all layers.
    """

    convolutions: list[Convolution] = field(default_factory=list)
    dense: list[Dense] = field(default_factory=list)
    divisor: float = 1.0
    image: tuple[int, ...] | None = None
    activation: Activation | None = None
    flat: bool = False

    @property
    def is_empty(self) -> bool:
        return not self.convolutions and not self.dense


def as_architecture(model: onnx.ModelProto, observation: ObservationSpec) -> Architecture | None:
    """The layers of a normalized model; None if it is anything but a chain of them.

    Args:
        model: from `observation` to `q_values`.
        observation: layout of the observations.
    """
    if any(part.categories is not None for part in observation.parts or ()):
        return None
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    chain = _Chain(flat=len(observation.shape) == 1)
    try:
        _walk(model, stored, chain, observation)
    except (_OtherError, ValueError, KeyError, IndexError):
        return None
    if not chain.dense or chain.dense[-1].activation:
        return None
    return Architecture(
        body=Stack(tuple(chain.convolutions), tuple(chain.dense[:-1])),
        output=(chain.dense[-1],),
        activation=chain.activation or "relu",
        divisor=chain.divisor,
        divisors={},
        image=chain.image or (observation.shape if chain.convolutions else None),
    )


def _walk(
    model: onnx.ModelProto,
    stored: Mapping[str, np.ndarray[Any, Any]],
    chain: _Chain,
    observation: ObservationSpec,
) -> None:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in set(node.input):
            readers.setdefault(name, []).append(node)
    current, pending = INPUT, list(model.graph.node)
    while current != OUTPUT:
        following = readers.get(current, [])
        if _is_silu(following, readers):
            gate, product = sorted(following, key=lambda node: node.op_type == "Mul")
            _activate(chain, "silu")
            pending = [node for node in pending if node not in (gate, product)]
            current = product.output[0]
            continue
        if len(following) != 1:
            raise _OtherError
        node = following[0]
        _step(node, current, stored, chain, observation)
        pending = [one for one in pending if one is not node]
        current = node.output[0]
    if pending:
        raise _OtherError


def _is_silu(following: list[onnx.NodeProto], readers: Mapping[str, list[onnx.NodeProto]]) -> bool:
    """Whether a tensor is read by a Sigmoid, and by the product of itself and that."""
    if sorted(node.op_type for node in following) != ["Mul", "Sigmoid"]:
        return False
    gate = next(node for node in following if node.op_type == "Sigmoid")
    product = next(node for node in following if node.op_type == "Mul")
    return gate.output[0] in product.input and len(readers.get(gate.output[0], [])) == 1


def _step(
    node: onnx.NodeProto,
    current: str,
    stored: Mapping[str, np.ndarray[Any, Any]],
    chain: _Chain,
    observation: ObservationSpec,
) -> None:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    kind = node.op_type
    if node.domain not in ("", "ai.onnx") or (
        current != node.input[0] and kind not in ("Add", "Mul")
    ):
        raise _OtherError
    if kind in ("Identity", "Dropout"):
        return
    if kind == "Cast" and attributes.get("to") == TensorProto.FLOAT:
        return
    if kind in ACTIVATIONS:
        activation, constants = ACTIVATIONS[kind]
        if any(abs(attributes.get(k, v) - v) > 1e-7 for k, v in constants.items()):
            raise _OtherError
        if attributes.get("approximate", b"none") != b"none":
            raise _OtherError
        _activate(chain, activation)
    elif kind in ("Div", "Mul") and chain.is_empty:
        _scale(kind, node, current, stored, chain, observation)
    elif kind == "Transpose" and chain.is_empty and attributes.get("perm") == [0, 3, 1, 2]:
        height, width, channels = observation.shape
        chain.image = (channels, height, width)
    elif kind == "Conv" and not chain.dense and not chain.flat:
        chain.convolutions.append(_convolution(node, attributes, stored))
    elif kind in ("Flatten", "Reshape"):
        _flatten(node, attributes, stored)
        chain.flat = True
    elif kind in ("Gemm", "MatMul"):
        if not chain.flat:
            raise _OtherError
        chain.dense.append(_dense(node, attributes, stored))
    elif kind == "Add":
        _add(node, current, stored, chain)
    else:
        raise _OtherError


def _activate(chain: _Chain, activation: Activation) -> None:
    """Sets the activation of the last layer."""
    if chain.activation not in (None, activation) or chain.is_empty:
        raise _OtherError
    chain.activation = activation
    if chain.dense:
        if chain.dense[-1].activation:
            raise _OtherError
        chain.dense[-1] = replace(chain.dense[-1], activation=True)
    else:
        if chain.convolutions[-1].activation:
            raise _OtherError
        chain.convolutions[-1] = replace(chain.convolutions[-1], activation=True)


def _scale(
    kind: str,
    node: onnx.NodeProto,
    current: str,
    stored: Mapping[str, np.ndarray[Any, Any]],
    chain: _Chain,
    observation: ObservationSpec,
) -> None:
    other = next(name for name in node.input if name != current)
    factor = stored[other]
    value = float(factor.ravel()[0]) if factor.size == 1 else 0.0
    if value == 1.0:
        return
    if observation.dtype == "float32" or observation.parts is not None:
        raise _OtherError
    if not value > 0:
        raise _OtherError
    divisor = value if kind == "Div" else 1.0 / value
    nearest = round(divisor)
    chain.divisor *= nearest if abs(divisor - nearest) < 1e-4 * divisor else divisor


def _convolution(
    node: onnx.NodeProto, attributes: dict[str, Any], stored: Mapping[str, np.ndarray[Any, Any]]
) -> Convolution:
    weight = _tensor(stored[node.input[1]])
    bias = stored.get(node.input[2]) if len(node.input) > 2 else None
    strides, pads = attributes.get("strides", [1, 1]), attributes.get("pads", [0, 0, 0, 0])
    automatic = attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    if weight.dim() != 4 or weight.shape[2] != weight.shape[3] or len(set(strides)) != 1:
        raise _OtherError
    if automatic or len(set(pads)) != 1 or set(attributes.get("dilations", [1])) != {1}:
        raise _OtherError
    return Convolution(
        weight,
        torch.zeros(len(weight)) if bias is None else _tensor(bias),
        stride=int(strides[0]),
        padding=int(pads[0]),
        groups=int(attributes.get("group", 1)),
        activation=False,
    )


def _dense(
    node: onnx.NodeProto, attributes: dict[str, Any], stored: Mapping[str, np.ndarray[Any, Any]]
) -> Dense:
    weight = _tensor(stored[node.input[1]])
    if weight.dim() != 2:
        raise _OtherError
    if node.op_type == "MatMul":
        return Dense(weight.T.contiguous(), torch.zeros(weight.shape[1]), activation=False)
    scales = [attributes.get("alpha", 1.0), attributes.get("beta", 1.0)]
    if scales != [1.0, 1.0] or attributes.get("transA", 0):
        raise _OtherError
    weight = weight if attributes.get("transB", 0) else weight.T.contiguous()
    bias = torch.zeros(len(weight))
    if len(node.input) > 2 and node.input[2]:
        bias = bias + _tensor(stored[node.input[2]]).flatten()
    return Dense(weight, bias, activation=False)


def _add(
    node: onnx.NodeProto, current: str, stored: Mapping[str, np.ndarray[Any, Any]], chain: _Chain
) -> None:
    """A bias after a MatMul."""
    other = next(name for name in node.input if name != current)
    bias = _tensor(stored[other])
    if not chain.dense or chain.dense[-1].activation or bias.numel() != len(chain.dense[-1].bias):
        raise _OtherError
    last = chain.dense[-1]
    chain.dense[-1] = replace(last, bias=last.bias + bias.flatten())


def _flatten(
    node: onnx.NodeProto, attributes: dict[str, Any], stored: Mapping[str, np.ndarray[Any, Any]]
) -> None:
    if node.op_type == "Flatten":
        if attributes.get("axis", 1) != 1:
            raise _OtherError
        return
    shape = stored[node.input[1]]
    if shape.shape != (2,) or shape[0] not in (-1, 0):
        raise _OtherError


def _tensor(values: np.ndarray[Any, Any]) -> Tensor:
    if values.dtype not in (np.float32, np.float64):
        raise _OtherError
    return torch.from_numpy(values.astype(np.float32))
