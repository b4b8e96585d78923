"""Episodes that do not come back from their seed and actions are given up, not mixed up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from slimq.core.environment import EnvironmentSpec
from slimq_trainer.checkpoint import load_checkpoint, save_checkpoint
from slimq_trainer.config import TrainConfig
from slimq_trainer.dqn import act, make_learner, play
from slimq_trainer.learner import Learner
from slimq_trainer.replay import NO_ACTION

NAME = "slimq-tests/Walk-v0"


class Walk(gymnasium.Env[Any, int]):
    """A walk whose first position is drawn from the seed, or from what nobody seeds."""

    def __init__(self, *, seeded: bool, lasts: int | None = None) -> None:
        self.observation_space = gymnasium.spaces.Box(-1e3, 1e3, (2,))
        self.action_space = gymnasium.spaces.Discrete(2)
        self.seeded, self.lasts = seeded, lasts
        self.unseeded = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        generator = self.np_random if self.seeded else self.unseeded
        self.place, self.steps = generator.random(), 0
        self.lasting = self.lasts or int(self.unseeded.integers(3, 90))
        return self._observe(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.place += 1.0 if action else -1.0
        return self._observe(), self.place, self.steps >= self.lasting, False, {}

    def _observe(self) -> Any:
        return np.array([self.place, self.steps], dtype=np.float32)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register(NAME, entry_point=Walk)
    yield
    del gymnasium.registry[NAME]


def walking(config: TrainConfig, **kwargs: Any) -> TrainConfig:
    environment = EnvironmentSpec(id=NAME, kwargs=kwargs, max_episode_steps=1_000)
    return config.model_copy(update={"environment": environment})


def play_until(learner: Learner, step: int) -> None:
    while learner.step < step:
        play(learner, act(learner, learner.online))


def restored(folder: Path, config: TrainConfig) -> tuple[Learner, Learner]:
    """A learner after some steps, and what its checkpoint restores."""
    before = make_learner(config)
    play_until(before, 240)
    now = make_learner(config)
    load_checkpoint(save_checkpoint(folder, before, {}), now)
    return before, now


def test_episodes_of_an_environment_that_heeds_its_seed_go_on(
    tmp_path: Path, small_config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    before, now = restored(tmp_path, walking(small_config, seeded=True, lasts=50))
    assert np.array_equal(now.observations, before.observations)
    assert now.episode_seeds == before.episode_seeds
    assert "restarted" not in capsys.readouterr().out


@pytest.mark.parametrize("lasts", [50, None], ids=["other places", "other places and lengths"])
def test_episodes_of_one_that_ignores_it_begin_anew_with_one_warning(
    tmp_path: Path,
    small_config: TrainConfig,
    capsys: pytest.CaptureFixture[str],
    lasts: int | None,
) -> None:
    before, now = restored(tmp_path, walking(small_config, seeded=False, lasts=lasts))
    begun = [bool(actions) for actions in before.episode_actions]
    lines = capsys.readouterr().out.splitlines()
    warnings = [line for line in lines if "episodes restarted" in line]
    assert len(warnings) == 1
    assert NAME in warnings[0]
    assert "episodes=3" in warnings[0]
    assert now.episode_seeds == [before.next_seed + index for index in range(3)]
    assert now.next_seed == before.next_seed + 3
    assert now.episode_actions == [[], [], []]
    assert now.episode_returns.tolist() == [0.0, 0.0, 0.0]
    assert now.observations[:, 1].tolist() == [0.0, 0.0, 0.0]
    assert any(begun)


def test_the_buffer_keeps_what_was_given_up_as_a_truncated_episode(
    tmp_path: Path, small_config: TrainConfig
) -> None:
    before, now = restored(tmp_path, walking(small_config, seeded=False, lasts=1_000))
    replay = now.replay
    for index in range(3):
        rows = int(replay.written[index])
        assert rows == before.replay.written[index] + 1 == 81
        assert replay.actions[index, rows - 1] == NO_ACTION
        assert replay.frames[index, rows - 1].numpy().tobytes() == (
            before.observations[index].tobytes()
        )
        assert bool(replay.ended[index, rows - 2])
        assert not bool(replay.terminated[index].any())
    assert replay.episode_steps.tolist() == [0, 0, 0]
    play_until(now, 480)
    for index in range(3):  # no step leads from one episode into the other
        held = replay.actions[index, :161] != NO_ACTION
        assert held.nonzero().flatten().tolist() == [*range(80), *range(81, 161)]
