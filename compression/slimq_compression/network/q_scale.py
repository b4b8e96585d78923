"""The scale of a policy's Q-values, the unit of temperatures and errors in distillation.

Q-values are in units of reward, whose scale each environment chooses. In units of the teacher's
Q-values, a recipe has the same effect at any scale of rewards. Networks are trained with outputs
divided by a power of two, which is exact in floating point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from torch import nn

from slimq.core.qfunction import QValues
from slimq.networks.qnetwork import QNetwork, output_layers


class Units(StrEnum):
    """Units of temperatures and of errors in Q-values."""

    TEACHER = "teacher"
    ABSOLUTE = "absolute"


@dataclass(frozen=True)
class QScale:
    """The scale of Q-values.

    Attributes:
        gap: median over states of the difference between the best and the worst action's Q-value.
        spread: standard deviation of an action's Q-values over states, averaged over actions.
    """

    gap: float = 1.0
    spread: float = 1.0

    @property
    def unit(self) -> float:
        """The power of two nearest to the spread."""
        return float(2.0 ** round(math.log2(self.spread)))

    def divided(self, unit: float) -> QScale:
        """The scale of Q-values divided by `unit`."""
        return QScale(self.gap / unit, self.spread / unit)


def measure_scale(q_values: QValues, units: Units) -> QScale:
    """The scale of Q-values `(states, actions)`; 1 if all are equal, or units are absolute."""
    if units is Units.ABSOLUTE:
        return QScale()
    exact = q_values.astype(np.float64)
    gaps = exact.max(axis=1) - exact.min(axis=1)
    spread = float(exact.std(axis=0).mean()) or float(exact.std()) or 1.0
    return QScale(float(np.median(gaps)) or float(gaps.mean()) or spread, spread)


def scale_outputs(network: QNetwork, factor: float) -> None:
    """Multiplies a network's Q-values in place.

    Args:
        network: the network; its grids are scaled, too.
        factor: a power of two, so that nothing is rounded.
    """
    if factor == 1.0:
        return
    with torch.no_grad():
        for name, layer in output_layers(network).items():
            layer.weight *= factor
            if layer.bias is not None:
                layer.bias *= factor
            if name in network.grids:
                network.grids[name] = tuple(g.scaled(factor) for g in network.grids[name])
        if not isinstance(network.head, nn.Linear) and network.head.spec.atoms is not None:
            network.head.support *= factor
