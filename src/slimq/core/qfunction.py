"""The interface between code that plays and code that computes Q-values."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from slimq.core.observation import Observations

QValues = npt.NDArray[np.float32]
INPUT, OUTPUT = "observation", "q_values"
"""Names of a model's input and output."""


class QFunction(Protocol):
    """Anything that maps observations to Q-values: a torch network, an ONNX session, a service."""

    def __call__(self, observations: Observations, /) -> QValues:
        """Q-values `(batch, actions)`, float32, for observations `(batch, *shape)`."""
        ...
