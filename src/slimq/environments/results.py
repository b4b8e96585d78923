"""Results of a step of several environments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slimq.core.observation import Observations


@dataclass(frozen=True)
class StepResult:
    """Results of one step; every array has the leading axis `environments`."""

    observations: Observations
    rewards: npt.NDArray[np.float32]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]

    @property
    def ended(self) -> npt.NDArray[np.bool_]:
        """Whether each episode has ended, for either reason."""
        return self.terminated | self.truncated
