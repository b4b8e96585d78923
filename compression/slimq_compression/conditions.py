"""Plays candidates under a policy's standard conditions, for the accept gate and the search.

The full policy plays first, on the same seeds and under the same disturbances. Its play shows which
conditions can decide, how many episodes they need, and which are cheap.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from slimq.core.conditions.catalogue import Condition, standard_conditions
from slimq.core.qfunction import QFunction
from slimq.core.repository import Repository
from slimq.core.robustness import (
    compare_under_condition,
    is_decisive,
    own_loss,
    simultaneous_confidence,
)
from slimq.core.statistics import PairedDifference
from slimq.evaluation.conditions import Trial, make_trials
from slimq_compression.context import Progress, silent
from slimq_compression.selection import play_returns
from slimq_compression.source import Source


class ConditionReference(BaseModel):
    """The full policy under one condition.

    Attributes:
        condition: the disturbance and its strength.
        returns: ordered by seed.
        loss: its own loss under the condition, as a share of full − random.
        seconds: time that these episodes took.
        telling: episodes needed to tell a loss of the condition's margin from no loss.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    condition: Condition
    returns: tuple[float, ...]
    loss: float
    seconds: float
    telling: int = 0

    @property
    def decides(self) -> bool:
        """Whether the full policy itself still plays well enough to be compared with."""
        return is_decisive(self.loss)

    def compare(self, returns: Sequence[float], scale: float, conditions: int) -> PairedDifference:
        """Compares a candidate, with bounds that hold for all conditions simultaneously.

        Args:
            returns: the candidate's returns on the same seeds.
            scale: the full policy's undisturbed mean return above random play's.
            conditions: number of standard conditions.
        """
        confidence = simultaneous_confidence(conditions)
        return compare_under_condition(returns, self.returns, scale, confidence)


def standard_trials(repository: Repository, source: Source) -> tuple[Trial, ...]:
    """The policy's standard conditions, ready to be played; none without an environment."""
    if source.manifest.environment is None:
        return ()
    conditions = standard_conditions(source.manifest.observation)
    return make_trials(repository, source.manifest, conditions)


def play_under(
    trial: Trial,
    policy: QFunction,
    seeds: Sequence[int],
    label: str,
    progress: Progress = silent,
) -> list[float]:
    """Plays one episode per seed under a condition; returns are in the order of the seeds."""
    situation = trial.situation
    label = f"{label}, {trial.condition.label}"
    return play_returns(situation.played, policy, seeds, label, progress, situation.begin)


def play_reference(
    trial: Trial,
    policy: QFunction,
    seeds: Sequence[int],
    undisturbed: Sequence[float],
    scale: float,
    label: str,
    progress: Progress = silent,
) -> ConditionReference:
    """Plays the full policy under a condition.

    Args:
        trial: the condition.
        policy: the full policy.
        seeds: one per episode.
        undisturbed: its undisturbed returns; paired by seed if there are as many.
        scale: its undisturbed mean return above random play's.
        label: who plays, for progress.
        progress: opens progress bars.
    """
    started = time.monotonic()
    returns = play_under(trial, policy, seeds, label, progress)
    return ConditionReference(
        condition=trial.condition,
        returns=tuple(returns),
        loss=own_loss(undisturbed, returns, scale),
        seconds=time.monotonic() - started,
    )
