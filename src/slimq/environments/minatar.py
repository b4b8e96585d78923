"""Makes an episode of MinAtar depend on its seed and its actions alone.

MinAtar 1.0.15 keeps the last action across `reset(seed=...)`. With sticky actions, an episode may
therefore begin with the last action of the previous one.
"""

from __future__ import annotations

from typing import Any

import gymnasium

MODULE = "minatar.gym"

Env = gymnasium.Env[Any, Any]


class ForgetLastAction(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Begins each episode after action 0, as a new environment does."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets the environment, including its memory of the previous episode."""
        self.unwrapped.game.last_action = 0  # type: ignore[attr-defined]
        return self.env.reset(seed=seed, options=options)


def repair(env: Env) -> Env:
    """The environment, wrapped if it is MinAtar's."""
    # Compared by name: MinAtar need not be installed.
    return ForgetLastAction(env) if type(env.unwrapped).__module__ == MODULE else env
