"""Per-state differences between the Q-values of two policies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slimq.core.qfunction import QValues


@dataclass(frozen=True)
class Differences:
    """Per-state differences between a variant and a reference.

    Attributes:
        agrees: `(states,)`, whether both pick the same greedy action.
        regrets: `(states,)`, loss from taking the variant's action, in the reference's Q-values.
        errors: `(states, actions)`, absolute Q-value differences.
    """

    agrees: npt.NDArray[np.bool_]
    regrets: npt.NDArray[np.float64]
    errors: npt.NDArray[np.float64]


def find_differences(variant: QValues, reference: QValues) -> Differences:
    """Compares Q-values `(states, actions)`, computed in float64."""
    ours, full = variant.astype(np.float64), reference.astype(np.float64)
    rows = np.arange(len(full))
    best, chosen = full.argmax(axis=1), ours.argmax(axis=1)
    return Differences(best == chosen, full[rows, best] - full[rows, chosen], np.abs(ours - full))
