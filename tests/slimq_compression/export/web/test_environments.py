"""Which environments the page plays, and how observations are drawn."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest

from slimq.core.environment import AtariPreprocessing, EnvironmentSpec, WrapperSpec
from slimq_compression.export.web.environments import (
    CARTPOLE_STEPS,
    PageEnvironment,
    page_environment,
)


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
