"""Every configuration that ships trains on its environment, for a few hundred steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimq.environments.vector import describe
from slimq_trainer.config import TrainConfig, load_config
from slimq_trainer.dqn import train
from slimq_trainer.run import Run

CONFIGS = Path(__file__).parents[2] / "configs"
NEEDED = {
    "lunarlander": "Box2D",
    "minatar-breakout": "minatar",
    "minatar-freeway": "minatar",
    "minatar-space-invaders": "minatar",
    "minigrid-empty": "minigrid",
    "minigrid-fourrooms": "minigrid",
}
"""By configuration, the module that its environment needs beside gymnasium and ALE."""
STEPS = 320


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations name files from the root of the repository."""
    monkeypatch.chdir(CONFIGS.parent)


def shortened(config: TrainConfig) -> TrainConfig:
    """Learns after half of the steps; the environment and the network are as they ship."""
    copies = config.algorithm.environments
    algorithm = {
        "steps": STEPS,
        "learning_starts": STEPS // 2,
        "replay_size": copies * 2 * (config.algorithm.n_step + 64),
        "batch_size": 8,
    }
    run = {"evaluate_every": 10**9, "evaluate_episodes": 1, "threads": 1}
    values = config.model_dump(mode="json")
    return TrainConfig.model_validate(
        values | {"algorithm": values["algorithm"] | algorithm, "run": values["run"] | run}
    )


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:pygame")
def test_a_configuration_that_ships_trains(path: Path, tmp_path: Path) -> None:
    if path.stem in NEEDED:
        pytest.importorskip(NEEDED[path.stem])
    config = load_config(path)
    assert config.policy == path.stem
    short = shortened(config)
    if config.environment.preprocessing is not None:  # an episode of Pong has thousands of steps
        limited = config.environment.model_copy(update={"max_episode_steps": 60})
        short = short.model_copy(update={"environment": limited})
    with Run(tmp_path, short, progress=False) as run:
        learner = train(short, run)
        assert run.best is not None
    assert learner.step == STEPS
    assert learner.updates > 0
    assert len(describe(short.environment).actions) == learner.online.spec.actions
