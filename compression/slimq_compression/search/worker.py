"""Worker of a search: runs trials and prunes them as soon as they fall behind.

Each stage costs more than the previous one: the untrained model gives bytes and latency; training
gives fidelity on the calibration set; ten episodes give the return. Promising candidates then play
all of the gate's episodes and, if they pass, episodes under the standard conditions, cheapest
first, up to the first failure. The sampler of `slimq search` is a multi-objective tree-structured
Parzen estimator (Ozaki et al. 2020), which takes limits as constraints.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import structlog
import torch
from optuna.trial import FrozenTrial, TrialState

from slimq.core.errors import ConfigError, SlimqError
from slimq.core.manifest import random_mean
from slimq.core.qfunction import QFunction
from slimq.core.report import Fidelity
from slimq.core.repository import Repository
from slimq.core.statistics import PairedDifference
from slimq_compression.conditions import ConditionReference, standard_trials
from slimq_compression.pipeline import Staged, run_recipe
from slimq_compression.resume import StepStore
from slimq_compression.search.proposals import Proposal
from slimq_compression.search.spaces import open_space
from slimq_compression.search.stages import (
    GATE_OFFSET,
    SCREENING_OFFSET,
    Reference,
    Stages,
    required_agreement,
)
from slimq_compression.search.study import (
    SearchSettings,
    complete_trials,
    finished_trials,
    is_nondominated,
    make_sampler,
    open_study,
    seconds_left,
)
from slimq_compression.selection import Score, scale_over_random
from slimq_compression.source import load_source

_log = structlog.get_logger(__name__)

BYTES_SLACK = 1.05
"""Factor on the limit of bytes for untrained models, since trained weights may compress better."""
ABOVE_CHANCE = 0.1
"""Minimum agreement, on a scale where 0 is a random action and 1 the full policy's."""
MIN_PEERS = 5
"""Minimum number of trials of at most the same bytes for their median regret to be a limit."""
MAX_EXCESS_LOSS = 0.1
"""Maximum loss beyond the margin in screening for the gate's episodes to be worth playing, unless
the screening leaves open whether the loss exceeds the margin at all."""


@dataclass(frozen=True)
class Figures:
    """The objectives of a trial."""

    bytes: int
    latency_us: float
    loss: float

    @property
    def values(self) -> tuple[float, float, float]:
        """Values in the order of `OBJECTIVES`."""
        return float(self.bytes), self.latency_us, self.loss


class Worker:
    """Runs trials of one study."""

    def __init__(self, settings: SearchSettings) -> None:
        self.settings = settings
        torch.set_num_threads(settings.threads)
        repository = Repository(settings.policies)
        self.source = load_source(repository, settings.policy)
        _, model = repository.read_model(settings.policy, self.source.manifest.baseline_variant)
        trials = standard_trials(repository, self.source) if settings.robust else ()
        self.stages = Stages(self.source, model, trials)
        self.study = open_study(settings)
        self.space = open_space(settings, self.source)
        self.store = StepStore(settings.steps)
        self.reference = Reference.model_validate(self.study.user_attrs["reference"])

    def run(self, more: Callable[[], bool], after: Callable[[], None]) -> None:
        """Runs trials while `more()` and within the time limit; calls `after()` after each."""
        deadline = time.monotonic() + seconds_left(self.settings, self.study)
        while more():
            trial = self.space.next_trial(self.study, deadline - time.monotonic())
            if trial is None:
                return
            self.run_trial(trial)
            after()

    def run_trial(self, trial: optuna.Trial) -> None:
        """Runs one trial, which ends complete, pruned, or failed with a reason."""
        self.study.sampler = make_sampler(self.settings.seed, trial.number)
        trial.set_user_attr("process", os.getpid())
        started = time.monotonic()
        try:
            figures = self._objective(trial)
        except optuna.TrialPruned as pruned:
            outcome: dict[str, Any] = {"state": TrialState.PRUNED}
            trial.set_user_attr("reason", str(pruned))
        except SlimqError as error:
            log = _log.info if isinstance(error, ConfigError) else _log.warning
            log("trial failed", trial=trial.number, error=str(error))
            outcome = {"state": TrialState.FAIL}
            trial.set_user_attr("reason", str(error))
        else:
            outcome = {"values": figures.values}
        trial.set_user_attr("seconds", time.monotonic() - started)
        self.study.tell(trial, **outcome)

    def _objective(self, trial: optuna.Trial) -> Figures:
        proposal = self.space.suggest(trial)
        trial.set_user_attr("candidate", proposal.describe())
        if (duplicate := self._find_duplicate(trial)) is not None:
            return _copy_result(trial, duplicate)
        staged = self._make(proposal, trained=False)
        self._check_bytes(trial, staged.manifest.model.bytes, BYTES_SLACK)
        policy = self.stages.load(staged.model, "untrained")
        ratio = self.stages.latency_ratio(policy)
        latency = ratio * self.reference.latency_us
        trial.set_user_attr("latency_ratio", ratio)
        trial.set_user_attr("latency_us", latency)
        self._require(trial, "latency_us", latency, self.settings.max_latency_us)

        if proposal.trains:
            started = time.monotonic()
            staged = self._make(proposal, trained=True)
            trial.set_user_attr("training_spent", time.monotonic() - started)
            training = sum(step.seconds for step in staged.manifest.recipe.steps)
            trial.set_user_attr("training", training)
        size = staged.manifest.model.bytes
        self._check_bytes(trial, size)
        policy = self.stages.load(staged.model, "candidate")
        self.check_fidelity(trial, self.stages.fidelity(policy), size)
        return self._play(trial, policy, size, latency)

    def _play(self, trial: optuna.Trial, policy: QFunction, size: int, latency: float) -> Figures:
        """Plays the screening episodes, and if promising, the gate's and those under conditions."""
        margin, started = self.settings.margin, time.monotonic()
        score = self.stages.score(policy, self.reference.screening, SCREENING_OFFSET)
        trial.set_user_attr("score", score.mean)
        figures = Figures(size, latency, score.loss)
        others = [other.values for other in complete_trials(self.study)]
        promising = score.loss <= margin + MAX_EXCESS_LOSS or score.high >= -margin
        if promising and (not self.space.drops_early or is_nondominated(figures.values, others)):
            score = self.stages.score(policy, self.reference.gate, GATE_OFFSET)
            trial.set_user_attr("score", score.mean)
            trial.set_user_attr("low", score.low)
            figures = Figures(size, latency, score.loss)
            trial.set_user_attr("playing", time.monotonic() - started)
            acceptable = self.is_acceptable(score)
            if acceptable:
                loss, acceptable = self._play_conditions(trial, policy)
                figures = Figures(size, latency, max(score.loss, loss))
            trial.set_user_attr("passed", acceptable)
        else:
            trial.set_user_attr("playing", time.monotonic() - started)
        return figures

    def _play_conditions(self, trial: optuna.Trial, policy: QFunction) -> tuple[float, bool]:
        """Plays the conditions, cheapest first, up to the first failure.

        Returns:
            The largest mean loss, and whether all conditions were passed.
        """
        if not self.reference.deciding:
            return 0.0, True
        random = random_mean(self.source.manifest)
        scale = scale_over_random(self.reference.gate, random, "search")
        lows: dict[str, float] = {}
        seconds: dict[str, float] = {}
        largest, kept = 0.0, True
        for known in self.reference.deciding:
            started, label = time.monotonic(), known.condition.label
            difference = self.stages.compare_under(policy, known, scale)
            lows[label], seconds[label] = difference.low, time.monotonic() - started
            largest = max(largest, -difference.mean)
            kept = keeps_condition(difference, known)
            if not kept:
                trial.set_user_attr("lost", label)
                break
        trial.set_user_attr("condition_lows", lows)
        trial.set_user_attr("disturbed", seconds)
        return largest, kept

    def is_acceptable(self, score: Score) -> bool:
        """Whether a candidate passes the gate's episodes, or they are too few to tell.

        If returns vary so much that there is no time for enough episodes, a mean within the margin
        is enough; the accept gate decides later. Without an environment, the score is an agreement.
        """
        if self.source.manifest.environment is None:
            return score.mean >= required_agreement(self.settings.margin)
        if score.low >= -self.settings.margin:
            return True
        few = len(self.reference.gate) < self.reference.telling
        return few and score.loss <= self.settings.margin

    def _make(self, proposal: Proposal, *, trained: bool) -> Staged:
        accept = {"margin": self.settings.margin}
        recipe, _ = proposal.recipe(name="candidate", accept=accept, trained=trained)
        return run_recipe(recipe, self.source, store=self.store if trained else None)

    def _check_bytes(self, trial: optuna.Trial, size: int, slack: float = 1.0) -> None:
        trial.set_user_attr("bytes", size)
        limit = self.settings.max_bytes
        self._require(trial, "bytes", size, None if limit is None else limit * slack)

    def check_fidelity(self, trial: optuna.Trial, fidelity: Fidelity, size: int) -> None:
        """Prunes a trial that acts nearly at random, or worse than half of those of no more bytes.

        Raises:
            TrialPruned: the agreement is too low, or the regret too high.
        """
        trial.set_user_attr("agreement", fidelity.agreement)
        trial.set_user_attr("regret", fidelity.regret)
        chance = 1 / len(self.source.manifest.actions)
        floor = chance + ABOVE_CHANCE * (1 - chance)
        if fidelity.agreement < floor:
            trial.set_constraint("agreement", floor - fidelity.agreement)
            raise optuna.TrialPruned(f"agreement {fidelity.agreement:.3f} below {floor:.3f}")
        if not self.space.drops_early:
            return
        # Only against trials of no more bytes; otherwise every small network would be pruned.
        peers = [
            float(other.user_attrs["regret"])
            for other in finished_trials(self.study)
            if "regret" in other.user_attrs and other.user_attrs["bytes"] <= size
        ]
        if len(peers) >= MIN_PEERS and fidelity.regret > float(np.median(peers)):
            median = float(np.median(peers))
            problem = f"regret {fidelity.regret:.2e} above {median:.2e}, the median of"
            raise optuna.TrialPruned(f"{problem} {len(peers)} trials of no more bytes")

    def _require(self, trial: optuna.Trial, name: str, value: float, limit: float | None) -> None:
        """Prunes a trial over a limit; the sampler gets the logarithm of the excess."""
        if self.space.drops_early and limit is not None and value > limit:
            trial.set_constraint(name, math.log(value / limit))
            raise optuna.TrialPruned(f"{name} {value:,.6g} over {limit:,.6g}")

    def _find_duplicate(self, trial: optuna.Trial) -> FrozenTrial | None:
        """A finished trial with the same parameters; None if there is none."""
        return next(
            (other for other in finished_trials(self.study) if other.params == trial.params), None
        )


def keeps_condition(difference: PairedDifference, known: ConditionReference) -> bool:
    """Whether a candidate passes under a condition, or the episodes are too few to tell."""
    few = len(known.returns) < known.telling
    return difference.non_inferior or (few and difference.mean >= -difference.margin)


def _copy_result(trial: optuna.Trial, duplicate: FrozenTrial) -> Figures:
    """Copies the result of an earlier trial with the same parameters."""
    kept: dict[str, Any] = {k: v for k, v in duplicate.user_attrs.items() if k != "attempt"}
    for name, value in (kept | {"same_as": duplicate.number}).items():
        if name != "reason":
            trial.set_user_attr(name, value)
    for name, value in duplicate.constraints.items():
        trial.set_constraint(name, value)
    if duplicate.state is TrialState.COMPLETE:
        return Figures(int(duplicate.values[0]), duplicate.values[1], duplicate.values[2])
    raise optuna.TrialPruned(str(duplicate.user_attrs.get("reason", "")))
