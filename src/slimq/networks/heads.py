"""Heads other than a single dense layer: dueling streams, and distributions reduced to Q-values.

- **Dueling** (Wang et al. 2016, 1511.06581, equation 9): Q(s, a) = V(s) + A(s, a) − mean A(s, ·).
- **Categorical** (C51, Bellemare et al. 2017, 1707.06887, §4): a softmax over atoms zᵢ for every
  action; Q(s, a) = Σᵢ pᵢ(s, a)·zᵢ. With dueling, streams are combined atom by atom (Hessel et al.
  2018, 1710.02298, §"The Integrated Agent").

A head of quantiles needs no layer of its own: its mean is a dense layer with averaged weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimq.networks.layers import Hidden, dense_layers
from slimq.networks.specification import Activation, HeadSpec

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}
"""The module of each activation, with torch's own constants."""


class Head(nn.Module):
    """Dueling streams, a distribution of the return, or both.

    Attributes:
        spec: the head's specification.
        advantage: layers from the last hidden activation to `(batch, actions · atoms)`; without
            dueling, they give the Q-values or logits themselves.
        value: layers from there to `(batch, atoms)`; None without dueling.
        support: values of the atoms, `(atoms,)`; empty for plain Q-values.
    """

    support: Tensor

    def __init__(self, spec: HeadSpec, width: int, actions: int, activation: Activation) -> None:
        super().__init__()
        self.spec, self.actions = spec, actions
        atoms = spec.atoms.count if spec.atoms else 1
        self.value = _stream(spec, width, atoms, activation) if spec.dueling else None
        self.advantage = _stream(spec, width, actions * atoms, activation)
        support = torch.zeros(0)
        if spec.atoms:
            support = torch.linspace(spec.atoms.low, spec.atoms.high, atoms)
        self.register_buffer("support", support, persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Q-values `(batch, actions)` for the last hidden activation `(batch, width)`."""
        values: Tensor = self.advantage(hidden)
        if self.spec.atoms is None:
            return values if self.value is None else _combine(self.value(hidden), values)
        logits = values.reshape(len(values), self.actions, -1)
        if self.value is not None:
            logits = _combine(self.value(hidden).unsqueeze(1), logits)
        q_values: Tensor = (logits.softmax(dim=2) * self.support).sum(dim=2)
        return q_values


def _combine(value: Tensor, advantage: Tensor) -> Tensor:
    return value + advantage - advantage.mean(dim=1, keepdim=True)


def _stream(spec: HeadSpec, width: int, outputs: int, activation: Activation) -> nn.Sequential:
    return nn.Sequential(
        *dense_modules(spec.hidden, width, activation),
        nn.Linear(dense_layers(spec.hidden)[-1].width if spec.hidden else width, outputs),
    )


def dense_modules(hidden: Hidden, width: int, activation: Activation) -> list[nn.Module]:
    """Dense layers, each with its normalization and activation.

    Args:
        hidden: the layers, as in a specification.
        width: number of inputs of the first layer.
        activation: the nonlinearity.
    """
    made: list[nn.Module] = []
    for layer in dense_layers(hidden):
        made.append(nn.Linear(width, layer.width))
        if layer.layer_norm:
            made.append(nn.LayerNorm(layer.width))
        if layer.activation:
            made.append(ACTIVATIONS[activation]())
        width = layer.width
    return made
