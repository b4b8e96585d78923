"""How the Q-values of two policies differ, state by state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slimq.core.qfunction import QValues


@dataclass(frozen=True)
class Differences:
    """Of a variant from a reference.

    Attributes:
        agrees: `(states,)`, whether the greedy action is the same.
        regrets: `(states,)`, what the variant's action loses by the reference's Q-values.
        errors: `(states, actions)`, absolute differences of the Q-values.
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
