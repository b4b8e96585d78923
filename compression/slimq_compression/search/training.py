"""Training parameters of a search's variants, in full or scaled down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from slimq.core.conditions.catalogue import STANDARD

Kind = Literal["conv", "mlp"]

REPLAY_ROUNDS = 6
"""Rounds of states in the replay: those from early, poor play are replaced by later ones."""


UNDER_CONDITIONS: Mapping[str, Any] = {"conditions": [STANDARD], "disturb": {}}
"""Keys of a student's `finetune`: half of its play is under the standard conditions, and frames are
also disturbed in each minibatch. For students of vectors, the cost in undisturbed play is within
the variation between seeds (docs/results.md)."""


@dataclass(frozen=True)
class Training:
    """Training parameters of `finetune`.

    Attributes:
        robust: whether to train under the standard conditions.
    """

    rounds: int
    states: int
    keep_every: int
    updates: int
    q_weight: float
    learning_rate: float
    epsilon: float
    precision: str = "fp32"
    robust: bool = False

    def scaled(self, effort: float) -> Training:
        """Scales updates and steps of play by `effort`, with fewer and shorter rounds."""
        rounds = max(2, round(self.rounds * math.sqrt(effort)))
        share = effort * self.rounds / rounds
        return replace(
            self,
            rounds=rounds,
            states=max(100, round(self.states * share)),
            updates=max(20, round(self.updates * share)),
        )

    def steps(self) -> dict[str, Any]:
        """The keys of a `finetune` step."""
        values = {known.name: getattr(self, known.name) for known in fields(self)}
        robust = UNDER_CONDITIONS if values.pop("robust") else {}
        replay = REPLAY_ROUNDS * self.states
        return {"pass": "finetune", **values, "replay_states": replay, **robust}


FULL: Mapping[tuple[Kind, str], Training] = {
    ("conv", "student"): Training(16, 4_000, 3, 2_500, 0.2, 3e-3, 0.05, robust=True),
    ("conv", "pruned"): Training(8, 3_000, 4, 1_000, 4.0, 5e-4, 0.05),
    ("mlp", "student"): Training(8, 4_000, 1, 1_500, 0.2, 5e-3, 0.1, robust=True),
    ("mlp", "pruned"): Training(8, 4_000, 1, 1_200, 4.0, 1e-3, 0.1),
}
"""Training of published winners. Small students lack the capacity to fit the level of the Q-values,
so their loss puts more weight on decisions."""
