"""A torch network as a `QFunction`."""

from __future__ import annotations

import torch
from torch import nn

from slimq.core.observation import Observations
from slimq.core.qfunction import QValues


class TorchPolicy:
    """Computes Q-values of numpy observations, without gradients."""

    def __init__(self, network: nn.Module, device: torch.device | str = "cpu") -> None:
        self.network, self.device = network, torch.device(device)

    def __call__(self, observations: Observations, /) -> QValues:
        """Q-values `(batch, actions)`, float32, for observations `(batch, *shape)`."""
        with torch.no_grad():
            q_values: QValues = (
                self.network(torch.from_numpy(observations).to(self.device)).float().cpu().numpy()
            )
        return q_values
