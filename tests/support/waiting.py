"""Waiting for what another thread or process brings about."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(
    holds: Callable[[], object],
    seconds: float,
    what: str = "it",
    *,
    every: float = 0.05,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Looks until something holds, and fails where it does not in time.

    Args:
        holds: looks.
        seconds: how long at most.
        what: is waited for.
        every: seconds between two looks.
        pause: lets these seconds pass.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what} never came to hold within {seconds:g} s"
        pause(every)
