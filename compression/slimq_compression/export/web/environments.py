"""The environments that the page can play itself, and how observations are drawn."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pydantic import JsonValue

from slimq.core.environment import DEFAULT_EPISODE_STEPS, EnvironmentSpec
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
class PageEnvironment:
    """An environment that is ported to the page.

    Attributes:
        kind: name of the page's module.
        options: arguments of the port.
        max_steps: steps after which an episode is truncated.
    """

    kind: str
    options: dict[str, bool | float | str]
    max_steps: int


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


def page_environment(spec: EnvironmentSpec) -> PageEnvironment | None:
    """The port of an environment; None if there is none for it or its options."""
    if spec.wrappers or spec.preprocessing is not None:
        return None
    if spec.id in CARTPOLE_STEPS and not spec.kwargs:
        steps = min(spec.max_episode_steps or DEFAULT_EPISODE_STEPS, CARTPOLE_STEPS[spec.id])
        return PageEnvironment("cartpole", {}, steps)
    found = re.fullmatch(r"(?:minatar\.gym:)?MinAtar/(\w+)-v([01])", spec.id)
    if found is None or found[1] not in MINATAR_GAMES or not set(spec.kwargs) <= MINATAR_OPTIONS:
        return None
    options: dict[str, bool | float | str] = {
        "game": MINATAR_GAMES[found[1]],
        "minimal_actions": found[2] == "1",
        "sticky_action_prob": _number(spec.kwargs.get("sticky_action_prob", 0.1)),
        "difficulty_ramping": bool(spec.kwargs.get("difficulty_ramping", True)),
    }
    return PageEnvironment("minatar", options, spec.max_episode_steps or DEFAULT_EPISODE_STEPS)


CARTPOLE_STEPS = {"CartPole-v0": 200, "CartPole-v1": 500}
MINATAR_GAMES = {
    "Breakout": "breakout",
    "Freeway": "freeway",
    "SpaceInvaders": "space_invaders",
}
MINATAR_OPTIONS = {"sticky_action_prob", "difficulty_ramping"}


def _number(value: JsonValue) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


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
