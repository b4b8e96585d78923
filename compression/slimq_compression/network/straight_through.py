"""Trains a network as it will be deployed: weights on grids, activations on levels.

The forward pass uses projected weights and quantized activations; the backward pass applies their
gradients to the latent values (straight-through estimator, Bengio et al. 2013, 1308.3432; for
quantization-aware training Jacob et al. 2018, 1712.05877, §3). Weights are swapped in and out, so
that any optimizer and any wrapper around the network work unchanged.

Cost: one projection per update. With very few levels, latent weights may oscillate between two of
them, so grids and ranges are frozen before the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from slimq.core.errors import InvalidInputError
from slimq.networks.grids import SETTLED, Grid, project
from slimq.networks.qnetwork import QNetwork, activation_names, named_layers

MOMENTUM = 0.95
"""Momentum of the running mean of the batches' largest activations."""


class LatentNetwork:
    """A network with latent weights, and their projection onto grids.

    Attributes:
        network: the network with latent weights, for the optimizer to update.
        grids: its grids, by layer name.

    Raises:
        InvalidInputError: activations are to be quantized, and one is not a ReLU.
    """

    def __init__(
        self, network: QNetwork, activation_bits: int | None, device: torch.device
    ) -> None:
        self.network = network
        layers = named_layers(network)
        self.grids = {
            name: tuple(grid.to(device) for grid in grids) for name, grids in network.grids.items()
        }
        self._weights = {name: layers[name].weight for name in self.grids}
        self._levels: dict[str, _ActivationLevels] = {}
        if activation_bits is not None:
            for name, module in activation_names(network).items():
                if not isinstance(module, nn.ReLU):
                    expected = "null for a network with activations other than ReLU"
                    received = f"{activation_bits}, and {name}"
                    raise InvalidInputError("finetune.activation_bits", expected, received)
                self._levels[name] = _ActivationLevels(activation_bits)
                module.register_forward_hook(self._levels[name])
        self.advance(0.0)

    def advance(self, progress: float) -> None:
        """Updates the grids from the latent weights; `progress` is from 0 to 1."""
        with torch.no_grad():
            for name, grids in self.grids.items():
                _advance(self._weights[name].data, grids, progress)
        for levels in self._levels.values():
            levels.settled = progress >= SETTLED

    @contextmanager
    def projected(self) -> Iterator[QNetwork]:
        """Context in which the network's weights are projected onto the grids."""
        latent = {name: weight.data for name, weight in self._weights.items()}
        try:
            for name, weight in self._weights.items():
                weight.data = project(latent[name], self.grids[name])
            yield self.network
        finally:
            for name, weight in self._weights.items():
                weight.data = latent[name]

    def write_to(self, network: QNetwork) -> None:
        """Writes projected weights, grids and ranges to a network of the same specification."""
        with self.projected():
            network.load_state_dict(self.network.state_dict())
        cpu = torch.device("cpu")
        network.grids = {
            name: tuple(grid.to(cpu) for grid in grids) for name, grids in self.grids.items()
        }
        if self._levels:
            network.ranges = {name: (0.0, float(x.high)) for name, x in self._levels.items()}


def attach_grids(network: QNetwork, name: str, grids: tuple[Grid, ...]) -> None:
    """Projects one layer onto grids, which the network keeps; modifies `network`."""
    weight = named_layers(network)[name].weight
    with torch.no_grad():
        _advance(weight.data, grids, 0.0)
        weight.data = project(weight.data, grids)
    network.grids[name] = grids


def _advance(weight: Tensor, grids: tuple[Grid, ...], progress: float) -> None:
    """Updates the grids; each one sees the weight as projected by those before it."""
    for grid in grids:
        grid.advance(weight, progress)
        weight = grid.project(weight)


class _ActivationLevels:
    """Forward hook that rounds activations to evenly spaced levels within the learned range."""

    def __init__(self, bits: int) -> None:
        self.levels = 2**bits - 1
        self.high = 0.0
        self.settled = False

    def __call__(self, module: nn.Module, _given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if module.training and not self.settled:
            largest = float(output.detach().amax())
            first = self.high == 0.0
            self.high = largest if first else MOMENTUM * self.high + (1 - MOMENTUM) * largest
        if self.high == 0.0:
            return output
        scale = self.high / self.levels
        clipped = output.clamp(max=self.high)
        rounding = ((clipped / scale).round() * scale - clipped).detach()
        on_levels: Tensor = clipped + rounding
        return on_levels
