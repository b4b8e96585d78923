"""Q-functions that need no network."""

from __future__ import annotations

from typing import Any

import numpy as np


def clumsy(observations: Any, /) -> Any:
    """Q-values of CartPole that soon lose."""
    return np.stack([observations[:, 0], observations[:, 1]], axis=1).astype(np.float32)


def balance(observations: Any, /) -> Any:
    """Pushes towards the side to which the pole falls."""
    lean = observations[:, 2] + observations[:, 3]
    return np.stack([-lean, lean], axis=1).astype(np.float32)


def pixels(observations: Any, /) -> Any:
    """Q-values from exact integer sums of a few pixels."""
    columns = observations[:, -1, :, ::14].astype(np.int64).sum(axis=1) % 251
    return columns.astype(np.float32)
