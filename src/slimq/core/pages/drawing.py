"""How pages draw the observations of a policy: the functions are those of `shared/drawings.js`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from slimq.core.manifest import PolicyManifest

ATARI_FRAMES_PER_SECOND = 60
DEFAULT_RATE = 8.0
"""Steps per second of environments without a natural rate."""
CLIFF = ("............", "............", "............", "SCCCCCCCCCCG")
LAKES = {
    "4x4": ("SFFF", "FHFH", "FFFH", "HFFG"),
    "8x8": (
        "SFFFFFFF",
        "FFFFFFFF",
        "FFFHFFFF",
        "FFFFFHFF",
        "FFFHFFFF",
        "FHHFFFHF",
        "FHFFHFHF",
        "FFFHFFFG",
    ),
}
"""Maps of gymnasium's FrozenLake, for drawing only."""


@dataclass(frozen=True)
class Drawing:
    """The way in which observations are drawn.

    Attributes:
        kind: name of the page's drawing function.
        rate: steps per second at normal speed.
        grid: rows of letters, for grid worlds.
    """

    kind: str
    rate: float = DEFAULT_RATE
    grid: tuple[str, ...] = field(default=())


def drawing(policy: PolicyManifest) -> Drawing:
    """The drawing for a policy's observations; bars of their values if nothing else fits."""
    spec, shape = policy.environment, policy.observation.shape
    if spec is None:
        return Drawing("frames" if _has_frames(policy) else "values")
    if spec.preprocessing is not None:
        return Drawing("frames", ATARI_FRAMES_PER_SECOND / spec.preprocessing.frame_skip)
    name = spec.id.rpartition(":")[2]
    for pattern, expected, found in DRAWINGS:
        if re.fullmatch(pattern, name) and shape == expected:
            return found
    if name.startswith("MinAtar/") and shape[:2] == (10, 10):
        return Drawing("minatar", 12.0)
    if name.startswith("FrozenLake") and shape == (1,):
        rows = LAKES.get(str(spec.kwargs.get("map_name", "4x4")))
        if rows is not None and spec.kwargs.get("desc") is None:
            return Drawing("grid", grid=rows)
    return Drawing("frames" if _has_frames(policy) else "values")


DRAWINGS = (
    (r"CartPole-v\d", (4,), Drawing("cartpole", 50.0)),
    (r"Acrobot-v\d", (6,), Drawing("acrobot", 15.0)),
    (r"MountainCar-v\d", (2,), Drawing("mountaincar", 30.0)),
    (r"LunarLander-v\d", (8,), Drawing("lunarlander", 50.0)),
    (r"CliffWalking-v\d", (1,), Drawing("grid", grid=CLIFF)),
    (r"MiniGrid-.*", (7, 7, 3), Drawing("minigrid")),
)
"""Patterns of environment names, observation shapes, and their drawings."""


def _has_frames(policy: PolicyManifest) -> bool:
    """Whether the newest frame is a greyscale image."""
    layout = policy.observation
    return layout.dtype == "uint8" and layout.stack is not None and len(layout.frame.shape) == 2
