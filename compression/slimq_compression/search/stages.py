"""Measurements of a candidate, relative to the baseline variant.

Returns come from selection seeds that neither the trainer nor the accept gate uses, so that the
winner's gate is independent of the luck that selected it. Latency is measured interleaved with the
baseline's and scaled to the baseline's latency at the start of the study, since other load on the
machine slows both alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from pydantic import BaseModel, ConfigDict

from slimq.core.manifest import random_mean, require_environment
from slimq.core.observation import Observations
from slimq.core.qfunction import QFunction
from slimq.core.report import Fidelity, LatencyMeasurement
from slimq.core.robustness import CONDITION_MARGIN, simultaneous_confidence
from slimq.core.seeds import SELECTION
from slimq.core.statistics import CONFIDENCE, PairedDifference
from slimq.evaluation.conditions import Trial
from slimq.evaluation.fidelity import measure_fidelity, q_values_of
from slimq.evaluation.latency import measure_latency
from slimq_compression.conditions import ConditionReference, play_reference, play_under
from slimq_compression.context import Progress, silent
from slimq_compression.search.study import SearchSettings
from slimq_compression.selection import (
    Score,
    load_candidate,
    play_returns,
    scale_over_random,
    score_returns,
)
from slimq_compression.source import Source

SCREENING_OFFSET, GATE_OFFSET = 200_000, 300_000
"""Offsets into selection seeds; the trainer uses 0, the accept gate `accept.SEED_OFFSET`."""
CALLS = 300
POWER = 0.84
"""Standard normal quantile of a power of 80 %."""
FEWEST, MOST = 30, 5_000
"""Minimum and maximum episodes of a gate whose number is chosen automatically."""
FINAL_FEWEST = 100
"""Minimum episodes of the final gate; 30 without a failure are compatible with one in ten."""
FINAL_FACTOR = 5
"""Maximum episodes of the final gate, as a multiple of the search gate's."""
GATE_TIME = 0.02
"""Maximum share of a run's time for one gate's undisturbed play; as much again for conditions."""


class Reference(BaseModel):
    """Figures of the baseline variant, measured once per study.

    Attributes:
        bytes: size on disk.
        latency_us: median latency of a call with one observation.
        screening: returns of the screening episodes, ordered by seed; empty without an environment.
        gate: returns of the gate's episodes, ordered by seed; empty without an environment.
        telling: episodes needed to tell a loss of the margin from no loss; 0 if not computed.
        conditions: the standard conditions, cheapest first; empty if they are not played.
        seconds: time of undisturbed play.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    latency_us: float
    screening: tuple[float, ...]
    gate: tuple[float, ...]
    telling: int = 0
    conditions: tuple[ConditionReference, ...] = ()
    seconds: float = 0.0

    @property
    def deciding(self) -> tuple[ConditionReference, ...]:
        """The conditions under which the baseline itself plays well enough, cheapest first."""
        return tuple(known for known in self.conditions if known.decides)

    @property
    def final_condition_episodes(self) -> int:
        """Episodes under each condition in the final gate, before a variant is published."""
        return max(
            (_final(len(known.returns), known.telling) for known in self.deciding), default=0
        )

    @property
    def final_episodes(self) -> int:
        """Undisturbed episodes in the final gate, before a variant is published.

        Few variants get there, so each may take longer than a trial.
        """
        return _final(len(self.gate), self.telling) if self.gate else 0


def _final(episodes: int, telling: int) -> int:
    return max(episodes, min(telling, FINAL_FACTOR * episodes), FINAL_FEWEST)


class Stages:
    """Measures models of one policy against its baseline."""

    def __init__(self, source: Source, baseline: bytes, trials: Sequence[Trial] = ()) -> None:
        """Stores the baseline's uncompressed model and the conditions to play under.

        The model is loaded again for each timing.
        """
        self.source, self.baseline = source, baseline
        self.trials = {trial.condition: trial for trial in trials}
        self.states: Observations = source.judged.observations(source.manifest.observation)

    def reference(
        self, size: int, settings: SearchSettings, progress: Progress = silent
    ) -> Reference:
        """Plays and times the baseline, of `size` bytes on disk.

        If the settings give no number of gate episodes, it is the number that tells a loss of the
        margin from no loss, as far as 2 % of the time allows.

        Raises:
            CheckFailedError: the baseline is no better than random play, so there is no scale.
        """
        policy = self.load(self.baseline, self.source.manifest.baseline_variant)
        timed = measure_latency(
            {"full": lambda: policy}, self.states, batches=(1,), iterations=CALLS
        )
        label = "search: full policy"
        latency = _median(timed["full"].find("alone", 1))
        if self.source.manifest.environment is None:
            return Reference(bytes=size, latency_us=latency, screening=(), gate=())
        started = time.monotonic()
        episodes = settings.screening_episodes
        screening = self.play(policy, episodes, SCREENING_OFFSET, label, progress)
        gate, telling = self._gate(policy, settings, label, progress)
        reference = Reference(
            bytes=size,
            latency_us=latency,
            screening=tuple(screening),
            gate=tuple(gate),
            telling=telling,
            seconds=time.monotonic() - started,
        )
        random = random_mean(self.source.manifest)
        for returns in (reference.screening, reference.gate):
            scale_over_random(returns, random, "search")
        conditions = [
            self._condition(trial, policy, settings, reference.gate, progress)
            for trial in self.trials.values()
        ]
        cheapest = sorted(conditions, key=lambda known: known.seconds)
        return reference.model_copy(update={"conditions": tuple(cheapest)})

    def _condition(
        self,
        trial: Trial,
        policy: QFunction,
        settings: SearchSettings,
        undisturbed: Sequence[float],
        progress: Progress,
    ) -> ConditionReference:
        """Plays the baseline under a condition, with as many episodes as needed and affordable."""
        scale = scale_over_random(undisturbed, random_mean(self.source.manifest), "search")
        confidence = simultaneous_confidence(len(self.trials))

        def play(count: int) -> ConditionReference:
            seeds = SELECTION.seeds(count, offset=GATE_OFFSET)
            label = "search: full policy"
            return play_reference(trial, policy, seeds, undisturbed, scale, label, progress)

        count = settings.gate_episodes or FEWEST
        known = play(count)
        telling = telling_episodes(known.returns, scale, CONDITION_MARGIN, confidence)
        telling = min(telling, MOST)
        if settings.gate_episodes is None:
            time_for_one = GATE_TIME * 60 * settings.minutes / len(self.trials)
            affordable = int(time_for_one * count / known.seconds)
            if min(telling, affordable) > count:
                known = play(min(telling, affordable))
        return known.model_copy(update={"telling": telling})

    def _gate(
        self, policy: QFunction, settings: SearchSettings, label: str, progress: Progress
    ) -> tuple[list[float], int]:
        """Returns of the gate's episodes, and the number needed to tell a loss of the margin."""
        if settings.gate_episodes is not None:
            return self.play(policy, settings.gate_episodes, GATE_OFFSET, label, progress), 0
        started = time.monotonic()
        returns = self.play(policy, FEWEST, GATE_OFFSET, label, progress)
        each = (time.monotonic() - started) / FEWEST
        scale = scale_over_random(returns, random_mean(self.source.manifest), "search")
        affordable = int(GATE_TIME * 60 * settings.minutes / each)
        telling = min(telling_episodes(returns, scale, settings.margin), MOST)
        count = max(FEWEST, min(telling, affordable))
        if count > FEWEST:
            returns = self.play(policy, count, GATE_OFFSET, label, progress)
        return returns, telling

    def load(self, model: bytes, name: str) -> QFunction:
        """Loads a model as a Q-function that raises an error on non-finite Q-values.

        Raises:
            RepositoryError: the model does not load, or has the wrong signature.
        """
        return load_candidate(self.source.manifest, model, name)

    def latency_ratio(self, policy: QFunction) -> float:
        """Median latency relative to the baseline's, interleaved, one observation, one thread."""
        full = self.load(self.baseline, self.source.manifest.baseline_variant)
        timed = measure_latency(
            {"full": lambda: full, "candidate": lambda: policy},
            self.states,
            batches=(1,),
            iterations=CALLS,
        )
        medians = {name: _median(r.find("interleaved", 1)) for name, r in timed.items()}
        return medians["candidate"] / medians["full"]

    def fidelity(self, policy: QFunction) -> Fidelity:
        """Fidelity to the full policy's Q-values, on the states kept for judging."""
        return measure_fidelity(q_values_of(policy, self.states), self.source.judged.q_values)

    def score(self, policy: QFunction, reference: Sequence[float], offset: int) -> Score:
        """Plays the baseline's seeds and compares with its returns `reference`.

        Without an environment, agreement on recorded states takes the place of returns.
        """
        if self.source.manifest.environment is None:
            agreement = self.fidelity(policy).agreement
            return Score(agreement, agreement - 1.0, agreement - 1.0)
        returns = self.play(policy, len(reference), offset, "search: candidate")
        return score_returns(returns, reference, random_mean(self.source.manifest), "search")

    def compare_under(
        self, policy: QFunction, known: ConditionReference, scale: float
    ) -> PairedDifference:
        """Plays the baseline's seeds under a condition and compares with its returns.

        Args:
            policy: the candidate.
            known: the baseline's play.
            scale: the baseline's undisturbed mean return above random play's.
        """
        seeds = SELECTION.seeds(len(known.returns), offset=GATE_OFFSET)
        trial = self.trials[known.condition]
        returns = play_under(trial, policy, seeds, "search: candidate")
        return known.compare(returns, scale, len(self.trials))

    def play(
        self,
        policy: QFunction,
        episodes: int,
        offset: int,
        label: str,
        progress: Progress = silent,
    ) -> list[float]:
        """Plays selection episodes; returns are ordered by seed."""
        seeds = SELECTION.seeds(episodes, offset=offset)
        environment = require_environment(self.source.manifest, "the search")
        return play_returns(environment, policy, seeds, label, progress)


def required_agreement(margin: float) -> float:
    """Minimum agreement of candidates when nothing can be played.

    The chosen candidate is the best of many on the states by which they are judged, so it may
    differ on only half as many of them as the margin allows.
    """
    return 1.0 - margin / 2


def telling_episodes(
    returns: Sequence[float], scale: float, margin: float, confidence: float = CONFIDENCE
) -> int:
    """Episodes with which the gate accepts four of five variants that lose nothing.

    Differences are assumed as wide as between independent episodes of the full policy; variants
    that mostly act alike would need fewer.

    Args:
        returns: the full policy's returns.
        scale: its mean return above random play's.
        margin: the share that may be lost.
        confidence: confidence of the interval whose lower bound must be within the margin.
    """
    bound = NormalDist().inv_cdf((1 + confidence) / 2)
    deviation = math.sqrt(2) * float(np.std(returns)) / scale
    return math.ceil(((bound + POWER) * deviation / max(margin, 1e-3)) ** 2)


def _median(measurement: LatencyMeasurement | None) -> float:
    if measurement is None:
        raise ValueError("this batch size was not timed")
    return measurement.p50_us
