"""Episode seeds: three disjoint ranges, and the per-episode generator for exploration.

Nothing may be fitted or selected on held-out seeds (no calibration, distillation, recipe or gate),
so the ranges are defined once, here. Training draws its episodes from a fourth disjoint range.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slimq.core.errors import InvalidInputError


@dataclass(frozen=True)
class SeedRange:
    """A half-open range of episode seeds."""

    name: str
    start: int
    size: int

    def seeds(self, count: int, offset: int = 0) -> list[int]:
        """Returns `count` seeds, starting at `offset`.

        Raises:
            InvalidInputError: they are not all within the range.
        """
        if count < 0 or offset < 0 or offset + count > self.size:
            limit = f"offset + count within the {self.size} {self.name} seeds"
            raise InvalidInputError("episodes", limit, f"{offset} + {count}")
        return list(range(self.start + offset, self.start + offset + count))

    def __contains__(self, seed: int) -> bool:
        return self.start <= seed < self.start + self.size


COLLECTION = SeedRange("collection", 1_000_000, 1_000_000)
SELECTION = SeedRange("selection", 2_000_000, 1_000_000)
HELD_OUT = SeedRange("held-out", 3_000_000, 1_000_000)
TRAINING = SeedRange("training", 10_000_000, 1_000_000_000)


def exploration_generator(seed: int) -> np.random.Generator:
    """Creates the generator for an episode's ε-greedy choices from the episode's seed.

    `evaluate` and `play` share it, so that offline and HTTP episodes take the same actions.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([0x51494D51, seed])))
