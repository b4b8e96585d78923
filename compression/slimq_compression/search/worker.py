"""One worker of a search: takes a trial, makes its recipe, and drops it as soon as it falls behind.

Each stage costs more than the one before: the untrained model shows bytes and latency; a short
training shows how near the Q-values are on the calibration set; ten episodes show the return; and
those on the front so far play the whole gate. The sampler is a tree-structured Parzen estimator for
several objectives (Ozaki et al. 2020), which takes limits as constraints.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import structlog
import torch
from optuna.trial import FrozenTrial, TrialState

from slimq.core.errors import SlimqError
from slimq.core.report import Fidelity
from slimq.core.repository import Repository
from slimq_compression.pipeline import Staged, load_source, run_recipe
from slimq_compression.search.space import Candidate, Offer, background_of, make_recipe, suggest
from slimq_compression.search.stages import GATE_OFFSET, SCREENING_OFFSET, Reference, Stages
from slimq_compression.search.study import (
    SearchSettings,
    complete,
    ended,
    make_sampler,
    on_front,
    open_study,
)

_log = structlog.get_logger(__name__)

SLACK = 1.05
"""Of the limit of bytes for untrained models, since trained weights may compress better."""
ABOVE_CHANCE = 0.1
"""Least agreement, where 0 is a random action and 1 the full policy's."""
PEERS = 5
"""Trials of no more bytes, from which on their median regret is one that others must reach."""
WORTH_A_GATE = 0.1
"""Loss beyond the margin at the screening, from which on the gate is not worth its play."""


@dataclass(frozen=True)
class Figures:
    """What a trial came to: the objectives."""

    bytes: int
    latency_us: float
    loss: float

    @property
    def values(self) -> tuple[float, float, float]:
        """In the order of `OBJECTIVES`."""
        return float(self.bytes), self.latency_us, self.loss


class Worker:
    """Runs trials of one study."""

    def __init__(self, settings: SearchSettings) -> None:
        self.settings = settings
        torch.set_num_threads(1)
        repository = Repository(settings.policies)
        self.source = load_source(repository, settings.policy)
        _, model = repository.read_model(settings.policy, self.source.manifest.baseline_variant)
        self.stages = Stages(self.source, model)
        self.study = open_study(settings)
        self.offer = Offer.current()
        self.background = background_of(self.source.calibration)
        self.reference = Reference.model_validate(self.study.user_attrs["reference"])

    def run(self, more: Callable[[], bool], after: Callable[[], None]) -> None:
        """Trials for as long as there are `more` and there is time; `after` each."""
        deadline = time.monotonic() + 60 * self.settings.minutes
        while time.monotonic() < deadline and more():
            self.one()
            after()

    def one(self) -> None:
        """One trial, which ends complete, pruned, or failed with a reason."""
        trial = self.study.ask()
        self.study.sampler = make_sampler(self.settings.seed, trial.number)
        try:
            figures = self._objective(trial)
        except optuna.TrialPruned as dropped:
            trial.set_user_attr("reason", str(dropped))
            self.study.tell(trial, state=TrialState.PRUNED)
        except SlimqError as error:
            _log.warning("a trial failed", trial=trial.number, error=str(error))
            trial.set_user_attr("reason", str(error))
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, figures.values)

    def _objective(self, trial: optuna.Trial) -> Figures:
        candidate = suggest(trial, self.source.teacher.spec, self.offer, self.background)
        trial.set_user_attr("candidate", candidate.describe())
        if (twin := self._twin(trial)) is not None:
            return _repeat(trial, twin)
        draft = self._make(candidate, 0.0)
        self._check_bytes(trial, draft.manifest.model.bytes, SLACK)
        policy = self.stages.load(draft.model, "untrained")
        ratio = self.stages.latency_ratio(policy)
        latency = ratio * self.reference.latency_us
        trial.set_user_attr("latency_ratio", ratio)
        trial.set_user_attr("latency_us", latency)
        self._require(trial, "latency_us", latency, self.settings.max_latency_us)

        staged = self._make(candidate, self.settings.effort)
        size = staged.manifest.model.bytes
        self._check_bytes(trial, size)
        policy = self.stages.load(staged.model, "candidate")
        self.check_fidelity(trial, self.stages.fidelity(policy), size)

        score = self.stages.score(policy, self.reference.screening, SCREENING_OFFSET)
        trial.set_user_attr("score", score.mean)
        figures = Figures(size, latency, score.loss)
        others = [other.values for other in complete(self.study)]
        promising = score.loss <= self.settings.margin + WORTH_A_GATE
        if promising and on_front(figures.values, others):
            score = self.stages.score(policy, self.reference.gate, GATE_OFFSET)
            trial.set_user_attr("score", score.mean)
            trial.set_user_attr("low", score.low)
            figures = Figures(size, latency, score.loss)
        return figures

    def _make(self, candidate: Candidate, effort: float) -> Staged:
        recipe, _ = make_recipe(
            candidate,
            self.offer,
            name="candidate",
            seed=self.settings.seed,
            effort=effort,
            accept={"margin": self.settings.margin},
        )
        return run_recipe(recipe, self.source)

    def _check_bytes(self, trial: optuna.Trial, size: int, slack: float = 1.0) -> None:
        trial.set_user_attr("bytes", size)
        limit = self.settings.max_bytes
        self._require(trial, "bytes", size, None if limit is None else limit * slack)

    def check_fidelity(self, trial: optuna.Trial, fidelity: Fidelity, size: int) -> None:
        """Drops a trial that plays at random, or worse than half of those of no more bytes.

        Raises:
            TrialPruned: as it says.
        """
        trial.set_user_attr("agreement", fidelity.agreement)
        trial.set_user_attr("regret", fidelity.regret)
        chance = 1 / len(self.source.manifest.actions)
        floor = chance + ABOVE_CHANCE * (1 - chance)
        if fidelity.agreement < floor:
            trial.set_constraint("agreement", floor - fidelity.agreement)
            raise optuna.TrialPruned(f"agreement {fidelity.agreement:.3f} below {floor:.3f}")
        # Among those of no more bytes: against all, every small network would fall behind.
        peers = [
            float(other.user_attrs["regret"])
            for other in ended(self.study)
            if "regret" in other.user_attrs and other.user_attrs["bytes"] <= size
        ]
        if len(peers) >= PEERS and fidelity.regret > float(np.median(peers)):
            median = float(np.median(peers))
            problem = f"regret {fidelity.regret:.2e} above {median:.2e}, the median of"
            raise optuna.TrialPruned(f"{problem} {len(peers)} trials of no more bytes")

    @staticmethod
    def _require(trial: optuna.Trial, name: str, value: float, limit: float | None) -> None:
        """Ends a trial over a limit, and tells the sampler by how much, as a logarithm."""
        if limit is not None and value > limit:
            trial.set_constraint(name, math.log(value / limit))
            raise optuna.TrialPruned(f"{name} {value:,.6g} over {limit:,.6g}")

    def _twin(self, trial: optuna.Trial) -> FrozenTrial | None:
        """An ended trial of the same parameters."""
        return next((other for other in ended(self.study) if other.params == trial.params), None)


def _repeat(trial: optuna.Trial, twin: FrozenTrial) -> Figures:
    """What an earlier trial of the same parameters came to; nothing is made again."""
    kept: dict[str, Any] = {k: v for k, v in twin.user_attrs.items() if k != "attempt"}
    for name, value in (kept | {"same_as": twin.number}).items():
        if name != "reason":
            trial.set_user_attr(name, value)
    for name, value in twin.constraints.items():
        trial.set_constraint(name, value)
    if twin.state is TrialState.COMPLETE:
        return Figures(int(twin.values[0]), twin.values[1], twin.values[2])
    raise optuna.TrialPruned(str(twin.user_attrs.get("reason", "")))
