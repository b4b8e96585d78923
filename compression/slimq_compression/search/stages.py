"""Measurements of a candidate, relative to the baseline variant.

Returns come from selection seeds that neither the trainer nor the accept gate uses, so that the
winner's gate is independent of the luck by which it was selected. Latency is measured interleaved
with the baseline's and scaled to the baseline's latency at the start of the study: other load on
the machine slows both alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from slimq.core.manifest import random_mean, require_environment
from slimq.core.observation import Observations
from slimq.core.qfunction import QFunction
from slimq.core.report import Fidelity, LatencyMeasurement
from slimq.core.seeds import SELECTION
from slimq.evaluation.fidelity import measure_fidelity, q_values_of
from slimq.evaluation.latency import measure_latency
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
BOUND, POWER = 1.96, 0.84
"""Standard normal quantiles of the 95 % interval's bound and of a power of 80 %."""
FEWEST, MOST = 30, 5_000
"""Episodes of a gate whose number is not given."""
FINAL_FEWEST = 100
"""Episodes of the final gate at least: 30 without a failure leave one in ten possible."""
FINAL_FACTOR = 5
"""How many times the gate's episodes a variant may play before it is published."""
GATE_TIME = 0.02
"""Share of a run's time for one gate of so many episodes."""


class Reference(BaseModel):
    """Figures of the baseline variant, measured once per study.

    Attributes:
        bytes: size on disk.
        latency_us: median latency of a call with one observation.
        screening: returns of the screening episodes, ordered by seed; empty without an environment.
        gate: returns of the gate's episodes; likewise.
        telling: episodes that would tell a loss of the margin from none; 0 if that was not asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    latency_us: float
    screening: tuple[float, ...]
    gate: tuple[float, ...]
    telling: int = 0

    @property
    def final_episodes(self) -> int:
        """Episodes by which a variant is judged before it is published.

        These are few variants, so each may take longer than a trial.
        """
        if not self.gate:
            return 0
        return max(len(self.gate), min(self.telling, FINAL_FACTOR * len(self.gate)), FINAL_FEWEST)


class Stages:
    """Measures models of one policy against its baseline."""

    def __init__(self, source: Source, baseline: bytes) -> None:
        """Takes the baseline's uncompressed model, which is loaded again for each timing."""
        self.source, self.baseline = source, baseline
        self.states: Observations = source.judged.observations(source.manifest.observation)

    def reference(
        self, size: int, settings: SearchSettings, progress: Progress = silent
    ) -> Reference:
        """Plays and times the baseline, of `size` bytes on disk.

        Without a number of gate episodes, it is the number that tells a loss of the margin from
        none, as far as 2 % of the time allow.

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
        episodes = settings.screening_episodes
        screening = self.play(policy, episodes, SCREENING_OFFSET, label, progress)
        gate, telling = self._gate(policy, settings, label, progress)
        reference = Reference(
            bytes=size,
            latency_us=latency,
            screening=tuple(screening),
            gate=tuple(gate),
            telling=telling,
        )
        random = random_mean(self.source.manifest)
        for returns in (reference.screening, reference.gate):
            scale_over_random(returns, random, "search")
        return reference

    def _gate(
        self, policy: QFunction, settings: SearchSettings, label: str, progress: Progress
    ) -> tuple[list[float], int]:
        """Returns of the gate's episodes, and how many would tell the margin."""
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
        """Fidelity to the full policy's Q-values on states that were not learned from."""
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
    """Agreement that is required where nothing is played.

    The chosen candidate is the best of many on the states by which they are judged, so it may
    differ on half as many of them as a variant may on others.
    """
    return 1.0 - margin / 2


def telling_episodes(returns: Sequence[float], scale: float, margin: float) -> int:
    """Episodes with which the gate accepts four of five variants that lose nothing.

    That is for differences as wide as those of independent episodes of the full policy; where a
    variant mostly acts like it, fewer would do.

    Args:
        returns: the full policy's.
        scale: its mean return above random play's.
        margin: the non-inferiority margin.
    """
    deviation = math.sqrt(2) * float(np.std(returns)) / scale
    return math.ceil(((BOUND + POWER) * deviation / max(margin, 1e-3)) ** 2)


def _median(measurement: LatencyMeasurement | None) -> float:
    if measurement is None:
        raise ValueError("this batch size was not timed")
    return measurement.p50_us
