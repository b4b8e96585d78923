"""Per-state gradients of a network's outputs with respect to weights and units.

One backward pass over a batch gives the gradients of all its states, since states do not interact
in a network with fixed normalization. Gradients of weights are computed from a layer's inputs and
the gradients of its outputs, without storing a full set of gradients per state.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimq.core.observation import Observations
from slimq.networks.qnetwork import QNetwork, WeightedLayer, named_layers
from slimq_compression.network.units import unit_layers

BATCH = 32
"""States per batch; a convolution's patches take up to 0.4 MB per state in the Nature network."""

Recorded = dict[nn.Module, tuple[Tensor, Tensor]]
Objective = Callable[[Tensor], Tensor]
"""The function to differentiate, summed over a batch of Q-values `(batch, actions)`."""


def greedy_value(q_values: Tensor) -> Tensor:
    """Σ_s max_a Q(s, a) of `(batch, actions)` Q-values."""
    return q_values.amax(dim=1).sum()


def unit_effects(network: QNetwork, states: Observations, owner: str) -> list[Tensor]:
    """E_s |Σ z · ∂V/∂z| of every unit with values z, where V is the best action's value.

    Args:
        network: a plain network (see `unit_layers`); not modified.
        states: `(states, *shape)`.
        owner: name of the pass, for errors.

    Returns:
        A tensor `(units,)`, float64, for each layer before the head.
    """
    own = _own(network)
    units = unit_layers(own, owner)
    totals = [torch.zeros(unit.width, dtype=torch.float64) for unit in units]
    with recording(unit.last for unit in units) as recorded:
        for batch in _batches(states):
            value = greedy_value(own(batch))
            outputs = [recorded[unit.last][1] for unit in units]
            gradients = torch.autograd.grad(value, outputs)
            for total, output, gradient in zip(totals, outputs, gradients, strict=True):
                effect = (output.detach() * gradient).reshape(*output.shape[:2], -1).sum(dim=2)
                total += effect.abs().double().sum(dim=0)
    return [total / len(states) for total in totals]


def weight_moments(
    network: QNetwork, states: Observations, objective: Objective, power: int
) -> dict[str, Tensor]:
    """E_s |∂f(s)/∂w|^power of every weight, where `objective` is the sum of f over a batch.

    Args:
        network: any network; not modified.
        states: `(states, *shape)`.
        objective: the function to differentiate.
        power: 1 or 2.

    Returns:
        Tensors of the shapes of the layers' weights, by layer name, including the head.
    """
    own = _own(network)
    layers = named_layers(own)
    totals = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    with recording(layers.values()) as recorded:
        for batch in _batches(states):
            value = objective(own(batch))
            outputs = [recorded[layer][1] for layer in layers.values()]
            gradients = torch.autograd.grad(value, outputs)
            for (name, layer), gradient in zip(layers.items(), gradients, strict=True):
                given = recorded[layer][0].detach()
                totals[name] = totals[name] + _power_sum(layer, given, gradient, power)
    return {name: (total / len(states)).detach() for name, total in totals.items()}


def _power_sum(layer: WeightedLayer, given: Tensor, gradient: Tensor, power: int) -> Tensor:
    """Σ_s |∂f(s)/∂w|^power from the layer's inputs and the gradients of its outputs.

    A dense layer's gradient for one state is an outer product, and so are its powers, so the sum is
    one matrix product. For a convolution, gradients are first summed over positions.
    """
    if isinstance(layer, nn.Linear):
        return gradient.abs().pow(power).T @ given.abs().pow(power)
    patches = F.unfold(given, layer.kernel_size, padding=layer.padding, stride=layer.stride)  # type: ignore[arg-type]
    count = len(given)
    patches = patches.reshape(count, layer.groups, -1, patches.shape[2])
    above = gradient.reshape(count, layer.groups, -1, patches.shape[3])
    single = above @ patches.transpose(2, 3)
    return single.abs().pow(power).sum(dim=0).reshape(layer.weight.shape)


def _own(network: QNetwork) -> QNetwork:
    """A copy to differentiate, on the CPU and with fixed normalization."""
    return copy.deepcopy(network).cpu().eval().requires_grad_()


def _batches(states: Observations) -> Iterator[Tensor]:
    for start in range(0, len(states), BATCH):
        yield torch.from_numpy(states[start : start + BATCH])


@contextmanager
def recording(modules: Iterable[nn.Module]) -> Iterator[Recorded]:
    """Records the last input and output of each module."""
    recorded: Recorded = {}

    def note(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        recorded[module] = (given[0], output)

    handles = [module.register_forward_hook(note) for module in modules]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
