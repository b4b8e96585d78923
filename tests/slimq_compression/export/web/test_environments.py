"""Which environments the page plays, and how observations are drawn."""

from __future__ import annotations

import re
from typing import Any

import gymnasium
import pytest

from builders import make_policy_manifest
from places import POLICIES, ROOT
from slimq.core.environment import AtariPreprocessing, EnvironmentSpec, WrapperSpec
from slimq.core.repository import Repository
from slimq.environments.make import make_single
from slimq_compression.export.web.environments import (
    CARTPOLE_STEPS,
    CLIFF,
    LAKES,
    PageEnvironment,
    drawing,
    page_environment,
)

PAGE = ROOT / "compression" / "slimq_compression" / "export" / "web" / "page"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"id": "CartPole-v1"}, PageEnvironment("cartpole", {}, 500)),
        ({"id": "CartPole-v1", "max_episode_steps": 60}, PageEnvironment("cartpole", {}, 60)),
        (
            {"id": "minatar.gym:MinAtar/SpaceInvaders-v0", "kwargs": {"difficulty_ramping": False}},
            PageEnvironment(
                "minatar",
                {
                    "game": "space_invaders",
                    "minimal_actions": False,
                    "sticky_action_prob": 0.1,
                    "difficulty_ramping": False,
                },
                27_000,
            ),
        ),
        ({"id": "CartPole-v1", "kwargs": {"sutton_barto_reward": True}}, None),
        ({"id": "CartPole-v1", "wrappers": (WrapperSpec(name="FlattenObservation"),)}, None),
        ({"id": "minatar.gym:MinAtar/Seaquest-v1"}, None),
        ({"id": "minatar.gym:MinAtar/Breakout-v1", "kwargs": {"display_time": 1}}, None),
        ({"id": "PongNoFrameskip-v4", "preprocessing": AtariPreprocessing()}, None),
        ({"id": "Acrobot-v1"}, None),
    ],
)
def test_only_environments_that_are_ported_are_played(
    values: dict[str, Any], expected: PageEnvironment | None
) -> None:
    assert page_environment(EnvironmentSpec(**values)) == expected


def test_limits_of_steps_are_gymnasiums() -> None:
    for name, steps in CARTPOLE_STEPS.items():
        assert gymnasium.spec(name).max_episode_steps == steps


def test_maps_are_gymnasiums() -> None:
    for name, rows in LAKES.items():
        env = make_single(EnvironmentSpec(id="FrozenLake-v1", kwargs={"map_name": name}))
        found = env.unwrapped.desc.tolist()  # type: ignore[attr-defined]
        assert [b"".join(row).decode() for row in found] == list(rows)
    env = make_single(EnvironmentSpec(id="CliffWalking-v1"))
    cliff = env.unwrapped._cliff  # type: ignore[attr-defined]
    assert [["C" if cell else "." for cell in row] for row in cliff.tolist()] == [
        list(row.replace("S", ".").replace("G", ".")) for row in CLIFF
    ]


def test_every_shipped_policy_has_a_drawing_of_its_own_that_the_page_has() -> None:
    repository = Repository(POLICIES)
    kinds = {name: drawing(repository.policy(name)).kind for name in repository.policies()}
    assert "values" not in kinds.values(), kinds
    table = (PAGE / "drawings.js").read_text(encoding="utf-8").partition("const DRAWINGS")[2]
    known = set(re.findall(r"^  (\w+): draw", table, flags=re.MULTILINE))
    assert set(kinds.values()) | {"values"} <= known


def test_what_is_not_known_is_drawn_as_values() -> None:
    policy = make_policy_manifest("tiny")
    own = policy.model_copy(update={"environment": EnvironmentSpec(id="mine.py:make")})
    assert drawing(own).kind == "values"
    assert drawing(policy.model_copy(update={"environment": None})).kind == "values"
    frames = make_policy_manifest("tiny_frames").model_copy(update={"environment": None})
    assert drawing(frames).kind == "frames"
