"""Q-values of a specification from the tensors of a file, without slimq's modules.

An interpreter of `QNetworkSpec` in plain functions, which takes the file's tensors in order. It
checks the import of plain weights: the modules, their order and the exported graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from slimq.core.observation import ObservationPart, Observations
from slimq.core.qfunction import QValues
from slimq.importing.networks.activations import FUNCTIONS
from slimq.networks.inputs import EPSILON
from slimq.networks.layers import (
    ConvLayer,
    DenseLayer,
    Hidden,
    Layer,
    ResidualLayer,
    ShuffleLayer,
    dense_layers,
)
from slimq.networks.specification import Activation, ConvSpec, Encoder, MultiInputSpec, QNetworkSpec

Group = Mapping[str, Tensor]
Groups = Iterator[Group]


@dataclass(frozen=True)
class SpecificationPolicy:
    """A `QFunction` over a file's tensors.

    Attributes:
        spec: the network.
        layers: tensors of each module with weights, in order: `body`, `value` and `advantage`.
        statistics: `normalize.mean` and `normalize.variance` where observations are normalized.
    """

    spec: QNetworkSpec
    layers: Mapping[str, Sequence[Group]]
    statistics: Mapping[str, Tensor]

    def __call__(self, observations: Observations, /) -> QValues:
        """Q-values `(batch, actions)` for observations `(batch, *shape)`."""
        batch = torch.from_numpy(np.ascontiguousarray(observations))
        with torch.no_grad():
            q_values: QValues = self._head(*self._body(batch)).numpy()
        return q_values

    def _body(self, batch: Tensor) -> tuple[Tensor, Groups]:
        spec, body = self.spec, self.spec.body
        groups = iter(self.layers["body"])
        if spec.observation_parts is not None:
            values = self._parts(batch, spec.observation_parts, groups)
        else:
            values = self._whole(batch)
            if isinstance(body, ConvSpec):
                values = _convolve(values, body.convolutions, body.activation, groups)
        return _dense(values.flatten(1), body.hidden, body.activation, groups), groups

    def _whole(self, batch: Tensor) -> Tensor:
        """Observations of one array as floats."""
        spec = self.spec
        values = batch.float()
        if spec.normalization is not None:
            mean, variance = (self.statistics[f"normalize.{k}"] for k in ("mean", "variance"))
            values = (values - mean) / torch.sqrt(variance + EPSILON)
            if (clip := spec.normalization.clip) is not None:
                values = values.clamp(-clip, clip)
        if spec.observation_dtype != "float32":
            values = values / spec.divisor
        if isinstance(spec.body, ConvSpec):
            values = _image(values, spec.body)
            if spec.observation_dtype != "float32":
                values = values - spec.body.background / spec.divisor
        return values

    def _parts(self, batch: Tensor, parts: Sequence[ObservationPart], groups: Groups) -> Tensor:
        """Named parts, encoded and concatenated."""
        body = self.spec.body
        encoders = body.encoders if isinstance(body, MultiInputSpec) else {}
        found, start = [], 0
        for part in parts:
            values = batch[:, start : start + part.size]
            start += part.size
            if part.categories is not None:
                first = torch.tensor(part.first)
                codes = values.long() - first
                columns = [F.one_hot(codes[:, i], n) for i, n in enumerate(part.categories)]
                values = torch.cat(columns, dim=1)
            values = values.float() / self.spec.divisors.get(part.name, 1.0)
            if (encoder := encoders.get(part.name)) is not None:
                values = _encode(values, encoder, part, groups)
            found.append(values)
        return torch.cat(found, dim=1)

    def _head(self, hidden: Tensor, groups: Groups) -> Tensor:
        spec, head = self.spec, self.spec.head
        atoms = head.atoms.count if head.atoms else 1
        if head.dueling:
            streams = []
            for kind, outputs in (("value", 1), ("advantage", spec.actions)):
                layers = iter(self.layers[kind])
                values = _dense(hidden, head.hidden, spec.body.activation, layers)
                streams.append(_linear(values, next(layers)).view(len(hidden), outputs, atoms))
            values = streams[0] + streams[1] - streams[1].mean(dim=1, keepdim=True)
        else:
            values = _linear(hidden, next(groups)).view(len(hidden), spec.actions, atoms)
        if head.atoms is None:
            return values.squeeze(2)
        support = torch.linspace(head.atoms.low, head.atoms.high, atoms)
        return (values.softmax(dim=2) * support).sum(2)


def _encode(values: Tensor, encoder: Encoder, part: ObservationPart, groups: Groups) -> Tensor:
    if isinstance(encoder, ConvSpec):
        values = _image(values.reshape(len(values), *part.shape), encoder)
        values = _convolve(values, encoder.convolutions, encoder.activation, groups).flatten(1)
    return _dense(values, encoder.hidden, encoder.activation, groups)


def _image(values: Tensor, body: ConvSpec) -> Tensor:
    if body.channels == "last":
        values = values.permute(0, 3, 1, 2)
    if body.window is not None:
        channels, height, width = values.shape[1:]
        spans = body.window.spans((channels, height, width))
        values = values[:, *(slice(*span) for span in spans)]
    return values


def _convolve(
    values: Tensor, layers: Sequence[Layer], activation: Activation, groups: Groups
) -> Tensor:
    for layer in layers:
        if isinstance(layer, ShuffleLayer):
            batch, channels, *size = values.shape
            grouped = values.reshape(batch, layer.groups, channels // layer.groups, *size)
            values = grouped.transpose(1, 2).reshape(batch, channels, *size)
        elif isinstance(layer, ResidualLayer):
            values = values + _convolve(values, layer.layers, activation, groups)
        else:
            values = _convolution(values, layer, activation, groups)
    return values


def _convolution(
    values: Tensor, layer: ConvLayer, activation: Activation, groups: Groups
) -> Tensor:
    group = next(groups)
    values = F.conv2d(
        values,
        group["weight"],
        group.get("bias"),
        stride=layer.stride,
        padding=layer.padding,
        groups=layer.groups,
    )
    if layer.batch_norm:
        norm = next(groups)
        values = F.batch_norm(
            values, norm["running_mean"], norm["running_var"], norm["weight"], norm["bias"]
        )
    if layer.layer_norm:
        values = _layer_norm(values, next(groups))
    return FUNCTIONS[activation](values) if layer.activation else values


def _dense(values: Tensor, hidden: Hidden, activation: Activation, groups: Groups) -> Tensor:
    for layer in dense_layers(hidden):
        values = _hidden(values, layer, activation, groups)
    return values


def _hidden(values: Tensor, layer: DenseLayer, activation: Activation, groups: Groups) -> Tensor:
    values = _linear(values, next(groups))
    if layer.layer_norm:
        values = _layer_norm(values, next(groups))
    return FUNCTIONS[activation](values) if layer.activation else values


def _linear(values: Tensor, group: Group) -> Tensor:
    return F.linear(values, group["weight"], group.get("bias"))


def _layer_norm(values: Tensor, group: Group) -> Tensor:
    return F.layer_norm(values, group["weight"].shape, group["weight"], group["bias"])
