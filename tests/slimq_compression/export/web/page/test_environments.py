"""The environments of the page make the transitions of the real ones, for the same seeds."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from places import ROOT
from slimq.core.environment import EnvironmentSpec
from slimq.environments.make import make_single
from slimq_compression.export.web.environments import page_environment

PAGE = ROOT / "compression" / "slimq_compression" / "export" / "web" / "page"
SCRIPT = Path(__file__).parent / "scripts" / "transitions.mjs"
NODE = shutil.which("node")
SEEDS = (0, 1, 7, 3_000_000, 3_000_001, 2**32 - 1)
GAMES = ("Breakout", "Freeway", "SpaceInvaders")
LEAST = {"Breakout": 31, "Freeway": 4, "SpaceInvaders": 27}
"""Scores beyond a wall of bricks, and beyond a wave of aliens."""

pytestmark = pytest.mark.skipif(
    NODE is None and "CI" not in os.environ, reason="`.ci/need npm` installs Node.js"
)


def run_script(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """What the page's modules make of a request."""
    shutil.copytree(PAGE / "environments", folder / "environments")
    (folder / "package.json").write_text('{"type": "module"}')
    done = subprocess.run(
        [NODE or "node", SCRIPT, folder / "environments"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


class Recorder:
    """An episode of the real environment, as it is played."""

    def __init__(self, env: Any, seed: int) -> None:
        self._env, self._seed = env, seed
        observation, _ = env.reset(seed=seed)
        self._observations = [observation]
        self.rewards: list[float] = []
        self.actions: list[int] = []
        self._ends: list[bool] = []

    @property
    def has_ended(self) -> bool:
        return bool(self._ends and self._ends[-1])

    def step(self, action: int) -> None:
        observation, reward, terminated, _, _ = self._env.step(action)
        self._observations.append(observation)
        self.rewards.append(float(reward))
        self._ends.append(bool(terminated))
        self.actions.append(action)

    def as_dict(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "actions": self.actions,
            "observations": np.stack(self._observations),
            "rewards": self.rewards,
            "ends": self._ends,
        }


def play(spec: EnvironmentSpec, seed: int, steps: int, repeat: int) -> dict[str, Any]:
    """A random episode of the real environment; each action is repeated some times."""
    env = make_single(spec)
    choices = np.random.default_rng(seed)
    episode = Recorder(env, seed)
    while len(episode.actions) < steps and not episode.has_ended:
        action = int(choices.integers(env.action_space.n))  # type: ignore[attr-defined]
        for _ in range(repeat):
            episode.step(action)
            if episode.has_ended:
                break
    env.close()
    return episode.as_dict()


@pytest.mark.filterwarnings("ignore:.*is out of date:DeprecationWarning")
@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("sticky", [0.0, 0.1])
def test_minatar_plays_bit_for_bit(game: str, version: str, sticky: float, tmp_path: Path) -> None:
    spec = EnvironmentSpec(
        id=f"minatar.gym:MinAtar/{game}-{version}", kwargs={"sticky_action_prob": sticky}
    )
    expected = [play(spec, seed, 3000, 1 + index % 4) for index, seed in enumerate(SEEDS)]
    found = compare_exactly(spec, expected, tmp_path)
    if game != "Freeway":
        assert any(any(episode["rewards"]) for episode in found), "something was scored"
    assert any(episode["ends"][-1] for episode in found), "an episode ended"


def test_cleared_waves_and_walls_come_again(tmp_path: Path) -> None:
    """What random play does not reach: a wall that is laid anew, aliens that become faster."""
    for game, least in LEAST.items():
        sticky = 0.0 if game == "Breakout" else 0.1
        spec = EnvironmentSpec(
            id=f"minatar.gym:MinAtar/{game}-v1", kwargs={"sticky_action_prob": sticky}
        )
        expected = play_well(spec, game, least)
        compare_exactly(spec, [expected], tmp_path / game)


def play_well(spec: EnvironmentSpec, game: str, least: int) -> dict[str, Any]:
    """An episode of a player who looks into the game, until so much is scored."""
    env = make_single(spec)
    inner = env.unwrapped.game.env  # type: ignore[attr-defined]
    for seed in range(20):
        episode = Recorder(env, seed)
        while sum(episode.rewards) < least and not episode.has_ended:
            episode.step(PLAYERS[game](inner))
        if sum(episode.rewards) >= least:
            env.close()
            return episode.as_dict()
    pytest.fail(f"{game}: no episode scored {least}")


def follow_ball(game: Any) -> int:
    step = 1 if game.ball_dir in (1, 2) else -1
    goal = min(max(game.ball_x + step, 0), 9) if game.ball_y >= 7 else game.ball_x
    return 0 if goal == game.pos else (1 if goal < game.pos else 2)


def survive(game: Any) -> int:
    """Shoots at the nearest alien, unless that leads to the end within a few steps."""
    columns = np.flatnonzero(game.alien_map.sum(axis=0))
    goal = columns[np.abs(columns - game.pos).argmin()]
    towards = 1 if goal < game.pos else 2
    wanted = [3, towards, 0, 1, 2] if game.shot_timer == 0 else [towards, 0, 1, 2]
    return next((action for action in wanted if survives(game, action, 3)), 0)


PLAYERS = {"Breakout": follow_ball, "Freeway": lambda game: 1, "SpaceInvaders": survive}


def survives(game: Any, action: int, depth: int) -> bool:
    ahead = copy.deepcopy(game)
    ahead.act(ahead.minimal_action_set()[action])
    if ahead.terminal or depth == 0:
        return not ahead.terminal
    return any(survives(ahead, after, depth - 1) for after in (0, 1, 2))


def compare_exactly(
    spec: EnvironmentSpec, expected: list[dict[str, Any]], folder: Path
) -> list[dict[str, Any]]:
    request = {
        "environment": as_request(spec),
        "episodes": [{name: one[name] for name in ("seed", "actions")} for one in expected],
    }
    found = run_script(folder, request)["results"]
    for real, ported in zip(expected, found, strict=True):
        assert ported["rewards"] == real["rewards"]
        assert ported["ends"] == real["ends"]
        flat = real["observations"].reshape(len(real["observations"]), -1).astype(int)
        assert np.array_equal(flat, np.array(ported["observations"]))
    return list(found)


def as_request(spec: EnvironmentSpec) -> dict[str, Any]:
    known = page_environment(spec)
    assert known is not None
    return {"kind": known.kind, "options": known.options}


def test_cartpole_starts_alike_and_steps_alike(tmp_path: Path) -> None:
    """States agree to the last bits: sines of the two languages may differ in the last one."""
    spec = EnvironmentSpec(id="CartPole-v1")
    expected = [play(spec, seed, 60, 1) for seed in SEEDS]
    env = make_single(spec)
    choices = np.random.default_rng(5)
    states, after = [], []
    for _ in range(2000):
        env.reset(seed=0)
        state = choices.normal(size=4) * [1.2, 1.0, 0.12, 1.5]
        env.unwrapped.state = state  # type: ignore[attr-defined]
        action = int(choices.integers(2))
        _, _, terminated, _, _ = env.step(action)
        states.append({"state": state.tolist(), "action": action})
        after.append((env.unwrapped.state, bool(terminated)))  # type: ignore[attr-defined]
    episodes = [{name: one[name] for name in ("seed", "actions")} for one in expected]
    request = {"environment": as_request(spec), "episodes": episodes, "states": states}
    found = run_script(tmp_path, request)
    for real, ported in zip(expected, found["results"], strict=True):
        assert np.array_equal(real["observations"][0], np.float32(ported["observations"][0]))
        np.testing.assert_allclose(ported["observations"], real["observations"], 1e-5, 1e-6)
        assert (ported["rewards"], ported["ends"]) == (real["rewards"], real["ends"])
    assert sum(terminated for _, terminated in after) > 50
    for (state, terminated), ported in zip(after, found["steps"], strict=True):
        np.testing.assert_allclose(ported["state"], state, rtol=1e-14, atol=1e-15)
        assert ported["terminated"] is terminated
