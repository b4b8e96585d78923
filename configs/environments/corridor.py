"""A corridor with doors: an environment of one's own, without a package and without registration.

The agent walks along a corridor and has to open each locked door before it can pass. Which ones are
locked is drawn anew in every episode, from the seed. Actions are 1 (back), 2 (forward), 3 (open).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

MAX_STEPS = 100
BACK, FORWARD, OPEN = 1, 2, 3


class Corridor(gymnasium.Env[dict[str, Any], int]):
    """The agent starts at field 0 and is done at the last one."""

    def __init__(self, length: int, doors: list[int]) -> None:
        self.length, self.doors = length, doors
        self.action_space = Discrete(3, start=BACK)
        self.observation_space = Dict(
            {
                "field": Discrete(length),
                "locked": MultiBinary(len(doors)),
                "energy": Box(0.0, 1.0, (1,), np.float32),
            }
        )

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Draws the locked doors from the seed."""
        super().reset(seed=seed)
        self.field, self.steps = 0, 0
        self.locked = self.np_random.integers(0, 2, len(self.doors), dtype=np.int8)
        return self._observe(), {}

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Every step costs a little; the last field pays 1."""
        self.steps += 1
        ahead = self.field + 1
        door = self.doors.index(ahead) if ahead in self.doors else None
        if action == BACK:
            self.field = max(0, self.field - 1)
        elif action == OPEN and door is not None:
            self.locked[door] = 0
        elif action == FORWARD and (door is None or not self.locked[door]):
            self.field = ahead
        arrived = self.field == self.length - 1
        reward = 1.0 if arrived else -0.02
        return self._observe(), reward, arrived, self.steps >= MAX_STEPS and not arrived, {}

    def _observe(self) -> dict[str, Any]:
        energy = np.array([1.0 - self.steps / MAX_STEPS], dtype=np.float32)
        return {"field": self.field, "locked": self.locked.copy(), "energy": energy}


def make(length: int = 8, doors: list[int] | None = None) -> Corridor:
    """The environment, for `id = "corridor.py:make"`."""
    return Corridor(length, doors or [length // 2])
