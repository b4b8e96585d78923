"""Measurements of a candidate, relative to the baseline variant.

Returns come from selection seeds that neither the trainer nor the accept gate uses, so that the
winner's gate is independent of the luck by which it was selected. Latency is measured interleaved
with the baseline's and scaled to the baseline's latency at the start of the study: other load on
the machine slows both alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from slimq.core.manifest import random_mean, require_environment
from slimq.core.observation import Observations
from slimq.core.qfunction import QFunction
from slimq.core.report import Fidelity, LatencyMeasurement
from slimq.core.seeds import SELECTION
from slimq.evaluation.fidelity import measure_fidelity, q_values_of
from slimq.evaluation.latency import measure_latency
from slimq_compression.context import Progress, silent
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


class Reference(BaseModel):
    """Figures of the baseline variant, measured once per study.

    Attributes:
        bytes: size on disk.
        latency_us: median latency of a call with one observation.
        screening: returns of the screening episodes, ordered by seed.
        gate: returns of the gate's episodes, ordered by seed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    latency_us: float
    screening: tuple[float, ...]
    gate: tuple[float, ...]


class Stages:
    """Measures models of one policy against its baseline."""

    def __init__(self, source: Source, baseline: bytes) -> None:
        """Takes the baseline's uncompressed model, which is loaded again for each timing."""
        self.source, self.baseline = source, baseline
        self.states: Observations = source.calibration.observations(source.manifest.observation)

    def reference(
        self, size: int, screening: int, gate: int, progress: Progress = silent
    ) -> Reference:
        """Plays and times the baseline, of `size` bytes on disk.

        Raises:
            CheckFailedError: the baseline is no better than random play, so there is no scale.
        """
        policy = self.load(self.baseline, self.source.manifest.baseline_variant)
        timed = measure_latency(
            {"full": lambda: policy}, self.states, batches=(1,), iterations=CALLS
        )
        label = "search: full policy"
        reference = Reference(
            bytes=size,
            latency_us=_median(timed["full"].find("alone", 1)),
            screening=tuple(self.play(policy, screening, SCREENING_OFFSET, label, progress)),
            gate=tuple(self.play(policy, gate, GATE_OFFSET, label, progress)),
        )
        random = random_mean(self.source.manifest)
        for returns in (reference.screening, reference.gate):
            scale_over_random(returns, random, "search")
        return reference

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
        """Fidelity to the full policy's Q-values on the calibration states."""
        return measure_fidelity(q_values_of(policy, self.states), self.source.calibration.q_values)

    def score(self, policy: QFunction, reference: Sequence[float], offset: int) -> Score:
        """Plays the baseline's seeds and compares with its returns `reference`."""
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


def _median(measurement: LatencyMeasurement | None) -> float:
    if measurement is None:
        raise ValueError("this batch size was not timed")
    return measurement.p50_us
