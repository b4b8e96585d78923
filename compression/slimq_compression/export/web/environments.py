"""Which environments the page can play itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import JsonValue

from slimq.core.environment import DEFAULT_EPISODE_STEPS, EnvironmentSpec


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
