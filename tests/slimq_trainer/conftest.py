from __future__ import annotations

from typing import Any

import pytest

from slimq_trainer.config import TrainConfig


@pytest.fixture(scope="session")
def small_config() -> TrainConfig:
    """CartPole with every option that takes part in a checkpoint, done in a second."""
    return make_config()


def make_config(**algorithm: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "steps": 1_200,
        "environments": 3,
        "replay_size": 900,
        "batch_size": 16,
        "learning_starts": 150,
        "update_every": 4,
        "target_update_every": 20,
        "epsilon_steps": 600,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "learning_rate_end": 1e-4,
        "optimizer_epsilon": 1e-8,
        "gradient_clip": 10.0,
        "double": True,
        "n_step": 3,
        "average_decay": 0.99,
    }
    return TrainConfig.model_validate(
        {
            "policy": "small",
            "seed": 7,
            "environment": {"id": "CartPole-v1", "max_episode_steps": 60},
            "network": {"kind": "mlp", "hidden": [16]},
            "algorithm": settings | algorithm,
            "run": {
                "precision": "fp32",
                "device": "cpu",
                "threads": 1,
                "evaluate_every": 1_000_000,
                "evaluate_episodes": 1,
                "log_every": 300,
            },
        }
    )
