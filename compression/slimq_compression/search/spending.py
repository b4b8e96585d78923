"""Breaks down the time of a search, from the records of its trials."""

from __future__ import annotations

from collections.abc import Mapping

import optuna

from slimq_compression.search.stages import Reference
from slimq_compression.search.study import finished_trials

TRAINING, UNDISTURBED, OTHER = "training", "undisturbed play", "the rest"


def spending(study: optuna.Study) -> dict[str, float]:
    """Seconds by purpose, over all workers, including the baseline's play.

    Returns:
        Training, undisturbed play, play under each condition, and the rest: making models, their
        latency and their agreement.
    """
    reference = Reference.model_validate(study.user_attrs["reference"])
    found = {TRAINING: 0.0, UNDISTURBED: reference.seconds}
    found |= {f"under {known.condition.label}": known.seconds for known in reference.conditions}
    found[OTHER] = 0.0
    for trial in finished_trials(study):
        known = trial.user_attrs
        if "same_as" in known:  # a copy of another trial's figures
            continue
        parts = {TRAINING: known.get("training_spent", 0.0), UNDISTURBED: known.get("playing", 0.0)}
        parts |= {f"under {label}": value for label, value in known.get("disturbed", {}).items()}
        for name, seconds in parts.items():
            found[name] += seconds
        found[OTHER] += max(0.0, known.get("seconds", 0.0) - sum(parts.values()))
    return found


def describe_spending(seconds: Mapping[str, float]) -> str:
    """A search's time and its shares on one line, largest first."""
    total = sum(seconds.values())
    shares = sorted(seconds.items(), key=lambda one: -one[1])
    parts = [f"{name} {value / total:.0%}" for name, value in shares if total and value]
    return f"{total / 60:.1f} min of the workers: {', '.join(parts)}"
