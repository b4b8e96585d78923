"""Compares configurations: the keys a checkpoint depends on, and those that may change."""

from __future__ import annotations

from typing import Any

from pydantic import JsonValue

from slimq_trainer.config import TrainConfig

Changes = dict[str, tuple[JsonValue, JsonValue]]
"""Values before and after, by key, such as `algorithm.gamma`."""

NOT_COMPARED = {"run", "calibration_states"}
"""Settings that may differ between a checkpoint and the training run that resumes it."""
CHANGEABLE = frozenset(
    {
        "policy",
        "precision",
        "algorithm.steps",
        "algorithm.batch_size",
        "algorithm.learning_starts",
        "algorithm.update_every",
        "algorithm.target_update_every",
        "algorithm.gamma",
        "algorithm.epsilon_start",
        "algorithm.epsilon_end",
        "algorithm.epsilon_steps",
        "algorithm.learning_rate",
        "algorithm.learning_rate_end",
        "algorithm.optimizer_epsilon",
        "algorithm.loss",
        "algorithm.gradient_clip",
        "algorithm.double",
        "algorithm.importance_exponent",
        "algorithm.average_decay",
        "algorithm.augmentation",
    }
)
"""Keys or tables that may change while the replay buffer and the optimizer are kept.

The replay buffer depends on others: its size, the number of environments, n-step windows,
priorities, and whether rewards are stored clipped. Discounts are applied on sampling.
"""


def comparable(config: TrainConfig, precision: str) -> dict[str, Any]:
    """The part of a configuration that a checkpoint depends on.

    Args:
        config: the configuration.
        precision: the precision that its `run.precision` resolves to.
    """
    return config.model_dump(mode="json", exclude=NOT_COMPARED) | {"precision": precision}


def differences(before: dict[str, Any], now: dict[str, Any], table: str = "") -> Changes:
    """The keys whose values differ, with both values; a missing key counts as null."""
    found: Changes = {}
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found |= differences(old, new, f"{table}{key}.")
        elif old != new:
            found[f"{table}{key}"] = (old, new)
    return found


def fixed_keys(changes: Changes) -> list[str]:
    """The changed keys that allow only the weights to be reused.

    Keys of the network are excluded: the networks were compared as a whole and are equal.
    """
    tables = ("network", "head")
    paths = {key: key.split(".") for key in changes}
    return [
        key
        for key, path in paths.items()
        if path[0] not in tables and ".".join(path[:2]) not in CHANGEABLE
    ]
