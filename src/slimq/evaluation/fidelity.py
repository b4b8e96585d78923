"""Fidelity of a variant's Q-values to the baseline's, on states that the baseline visits."""

from __future__ import annotations

import hashlib
import heapq

import numpy as np
import numpy.typing as npt

from slimq.core.differences import find_differences
from slimq.core.errors import InvalidInputError
from slimq.core.observation import Observations
from slimq.core.qfunction import QFunction, QValues
from slimq.core.report import Fidelity
from slimq.environments.rollout import StepTrace

NEAR_TIE = 1e-4
"""Gap between the two best Q-values below which the two actions count as equally good."""

_BATCH = 64


class StateSample:
    """A uniform sample, without replacement, of at most `size` of the states offered.

    A state is kept if the hash of its episode's seed and its step is among the smallest, so the
    sample depends on which states were offered, not on their order.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: list[tuple[int, int, int, npt.NDArray[np.generic]]] = []

    def add(self, trace: StepTrace) -> None:
        """Offers the states of one step."""
        for row, (seed, step) in enumerate(zip(trace.seeds, trace.steps, strict=True)):
            digest = hashlib.blake2b(f"{seed}:{step}".encode(), digest_size=8).digest()
            rank = -int.from_bytes(digest, "little")
            if len(self._kept) < self.size:
                state = (rank, int(seed), int(step), trace.observations[row].copy())
                heapq.heappush(self._kept, state)
            elif rank > self._kept[0][0]:
                state = (rank, int(seed), int(step), trace.observations[row].copy())
                heapq.heapreplace(self._kept, state)

    def observations(self) -> Observations:
        """The kept states `(states, *shape)`, ordered by seed and step."""
        ordered = sorted(self._kept, key=lambda state: state[1:3])
        states: Observations = np.stack([state[3] for state in ordered])
        return states


def q_values_of(q_function: QFunction, observations: Observations) -> QValues:
    """Q-values `(states, actions)`, computed in batches of 64."""
    starts = range(0, len(observations), _BATCH)
    return np.concatenate([q_function(observations[start : start + _BATCH]) for start in starts])


def measure_fidelity(variant: QValues, baseline: QValues) -> Fidelity:
    """Compares a variant's Q-values `(states, actions)` with the baseline's.

    Raises:
        InvalidInputError: the shapes differ, or there are no states.
    """
    if variant.shape != baseline.shape or baseline.ndim != 2 or not len(baseline):
        raise InvalidInputError("q_values", f"shape {baseline.shape}", f"shape {variant.shape}")
    found = find_differences(variant, baseline)
    ordered = np.sort(baseline.astype(np.float64), axis=1)
    single = baseline.shape[1] == 1
    gaps = np.full(len(baseline), np.inf) if single else ordered[:, -1] - ordered[:, -2]
    clear = gaps >= NEAR_TIE
    return Fidelity(
        states=len(baseline),
        agreement=float(found.agrees.mean()),
        near_ties=int((~clear).sum()),
        agreement_without_ties=float(found.agrees[clear].mean()) if clear.any() else 1.0,
        regret=float(found.regrets.mean()),
        q_error_mean=float(found.errors.mean()),
        q_error_max=float(found.errors.max()),
    )
