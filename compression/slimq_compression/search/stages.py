"""What a search measures of a candidate, cheapest first, each time against the baseline variant.

Returns come from selection seeds that neither the trainer nor the accept gate has seen, so the gate
that a winner passes at the end is fresh evidence and not the luck for which it was chosen. Latency
is timed in turn with the baseline and scaled to the baseline's own time on the machine at rest:
whatever else runs slows both alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from slimq.core.observation import Observations
from slimq.core.qfunction import QFunction
from slimq.core.report import Fidelity, LatencyMeasurement
from slimq.core.seeds import SELECTION
from slimq.evaluation.fidelity import measure_fidelity, q_values_of
from slimq.evaluation.latency import measure_latency
from slimq_compression.context import Progress, silent
from slimq_compression.pipeline import Source
from slimq_compression.selection import (
    Score,
    load_candidate,
    play_returns,
    scale_over_random,
    score_returns,
)

SCREENING_OFFSET, GATE_OFFSET = 200_000, 300_000
"""Of selection seeds; the trainer's start at 0, the accept gate's at `accept.SEED_OFFSET`."""
CALLS = 300


class Reference(BaseModel):
    """What the baseline variant does, measured once for a study.

    Attributes:
        bytes: on disk.
        latency_us: median of a call with one observation.
        screening: returns of the screening episodes, by seed in order.
        gate: returns of the gate's episodes, by seed in order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    latency_us: float
    screening: tuple[float, ...]
    gate: tuple[float, ...]


class Stages:
    """Measures models of one policy against its baseline."""

    def __init__(self, source: Source, baseline: bytes) -> None:
        """`baseline` is its uncompressed model, which is loaded each time that it is timed."""
        self.source, self.baseline = source, baseline
        self.states: Observations = source.calibration.observations(source.manifest.observation)

    def reference(
        self, size: int, screening: int, gate: int, progress: Progress = silent
    ) -> Reference:
        """Plays and times the baseline, of `size` bytes on disk.

        Raises:
            CheckFailedError: it is no better than random play, so there is no scale.
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
        random = self.source.manifest.random_policy.mean
        for returns in (reference.screening, reference.gate):
            scale_over_random(returns, random, "search")
        return reference

    def load(self, model: bytes, name: str) -> QFunction:
        """A model as a Q-function that refuses Q-values that are not finite.

        Raises:
            RepositoryError: it does not load, or has another signature.
        """
        return load_candidate(self.source.manifest, model, name)

    def latency_ratio(self, policy: QFunction) -> float:
        """Median time of one call over the baseline's, in turn, one observation, one thread."""
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
        """On the calibration states, against the Q-values of the full policy."""
        return measure_fidelity(q_values_of(policy, self.states), self.source.calibration.q_values)

    def score(self, policy: QFunction, reference: Sequence[float], offset: int) -> Score:
        """Plays the same seeds as the baseline did, whose returns are `reference`."""
        returns = self.play(policy, len(reference), offset, "search: candidate")
        return score_returns(returns, reference, self.source.manifest.random_policy.mean, "search")

    def play(
        self,
        policy: QFunction,
        episodes: int,
        offset: int,
        label: str,
        progress: Progress = silent,
    ) -> list[float]:
        """Returns of so many selection episodes, by seed in order."""
        seeds = SELECTION.seeds(episodes, offset=offset)
        environment = self.source.manifest.environment
        return play_returns(environment, policy, seeds, label, progress)


def _median(measurement: LatencyMeasurement | None) -> float:
    if measurement is None:
        raise ValueError("this batch size was not timed")
    return measurement.p50_us
