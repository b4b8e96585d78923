"""Mutable state of a training run."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from slimq.core.errors import TrainingError
from slimq.core.observation import Observations
from slimq.environments.vector import VectorEnvironment
from slimq.networks.frame_disturbance import FrameDisturber
from slimq.networks.qnetwork import MixedPrecision, QNetwork
from slimq_trainer.config import TrainConfig
from slimq_trainer.replay import ReplayBuffer


@dataclass
class Learner:
    """The state of a training run, most of which goes into a checkpoint."""

    config: TrainConfig
    device: torch.device
    precision: str
    online: QNetwork
    target: QNetwork
    average: QNetwork | None
    optimizer: torch.optim.Optimizer
    replay: ReplayBuffer
    environment: VectorEnvironment
    exploration: np.random.Generator
    sampling: torch.Generator
    augment: FrameDisturber | None
    observations: Observations
    episode_seeds: list[int]
    episode_actions: list[list[int]]
    episode_returns: npt.NDArray[np.float64]
    next_seed: int
    step: int = 0
    updates: int = 0
    episodes: int = 0
    recent_returns: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    losses: Tensor = field(default_factory=lambda: torch.zeros(()))

    @property
    def q_online(self) -> nn.Module:
        """The online network, in the run's precision."""
        return MixedPrecision(self.online) if self.precision == "bf16" else self.online

    @property
    def q_target(self) -> nn.Module:
        """The target network, in the run's precision."""
        return MixedPrecision(self.target) if self.precision == "bf16" else self.target

    @property
    def policy(self) -> QNetwork:
        """The network to evaluate and publish: the average if one is kept."""
        return self.average if self.average is not None else self.online

    def observe(self, observations: Observations) -> None:
        """Adds observations `(batch, *shape)` to the running statistics for normalization."""
        if self.online.normalize is not None:
            self.online.normalize.update(torch.from_numpy(observations))

    def check_finite(self) -> None:
        """Checks the loss since the last report, and the weights.

        Raises:
            TrainingError: a value is not finite.
        """
        finite = bool(torch.isfinite(self.losses)) and all(
            bool(torch.isfinite(weight).all()) for weight in self.online.parameters()
        )
        if not finite:
            raise TrainingError(
                f"the loss is not finite at agent step {self.step:,} (update {self.updates:,}); "
                "the last checkpoint is kept. Lower learning_rate or set gradient_clip."
            )
