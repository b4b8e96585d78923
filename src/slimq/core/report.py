"""The evaluation report of one variant: what was measured, by which protocol, on which model.

A report holds measurements only. Whatever compares two variants (paired differences, latency
ratios) is computed when reports are read, so that a new baseline leaves nothing stale behind.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slimq.core.environment import EnvironmentSpec
from slimq.core.manifest import Sha256, Slug

LatencyMode = Literal["interleaved", "alone"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EvaluationProtocol(_Value):
    """How every variant of a policy was played; reports are compared only where it is equal.

    Atari games are scored by the game's own reward (not clipped) over whole games (lives do not
    end an episode).
    """

    environment: EnvironmentSpec = Field(
        description="id, arguments, no-op starts, sticky actions, frame skip and the step cap"
    )
    epsilon: float = Field(ge=0, le=1, description="probability of a uniformly random action")
    episodes: int = Field(ge=1, description="one for each seed")
    seed_range: str = Field(description="name of the range of episode seeds")
    first_seed: int = Field(ge=0, description="seeds are consecutive from here")
    resamples: int = Field(ge=1, description="bootstrap resamples of every interval")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="of every interval")
    fidelity_states: int = Field(
        ge=1,
        description="most states of the baseline's own play on which variants are compared",
    )
    fidelity_episodes: int = Field(
        ge=1, description="how many of the episodes, from the first seed, those states come from"
    )

    @property
    def seeds(self) -> list[int]:
        """The seed of every episode."""
        return list(range(self.first_seed, self.first_seed + self.episodes))

    @property
    def digest(self) -> str:
        """Sha256 of the protocol in canonical JSON."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()


class Interval(_Value):
    """A confidence interval."""

    low: float
    high: float


class Fidelity(_Value):
    """How near a variant is to the baseline on states that the baseline visits in held-out play."""

    states: int = Field(ge=1)
    agreement: float = Field(ge=0, le=1, description="share of states with the same greedy action")
    near_ties: int = Field(
        ge=0, description="states where the baseline's best two Q-values lie within 1e-4"
    )
    agreement_without_ties: float = Field(
        ge=0, le=1, description="agreement on the states that are no near ties; 1 if there are none"
    )
    regret: float = Field(
        ge=0, description="mean of what the variant's action loses by the baseline's Q-values"
    )
    q_error_mean: float = Field(ge=0, description="mean absolute difference of Q-values")
    q_error_max: float = Field(ge=0, description="largest absolute difference of Q-values")


class LatencyMeasurement(_Value):
    """Wall-clock and processor time of one call, in microseconds."""

    mode: LatencyMode = Field(
        description="interleaved: all variants in turn; alone: one variant after another"
    )
    batch: int = Field(ge=1)
    iterations: int = Field(ge=1, description="timed calls, of all processes")
    p50_us: float = Field(ge=0, description="median over processes of each one's median")
    processes_p50_us: list[float] = Field(min_length=1, description="each process's median")
    p95_us: float = Field(ge=0, description="of all calls")
    p99_us: float = Field(ge=0, description="of all calls")
    processor_us: float = Field(ge=0, description="mean processor time of one call, all threads")


class LatencyReport(_Value):
    """One measuring run; ratios between variants hold only within one `run_id`."""

    run_id: str = Field(min_length=1)
    processor: str
    threads: int = Field(ge=1)
    processes: int = Field(ge=1, description="fresh ones, one after another")
    onnxruntime: str = Field(description="version")
    variants: list[Slug] = Field(min_length=1, description="measured in this run")
    measurements: list[LatencyMeasurement]

    def find(self, mode: LatencyMode, batch: int) -> LatencyMeasurement | None:
        """The measurement of a mode and a batch size, None where there is none."""
        matching = (m for m in self.measurements if m.mode == mode and m.batch == batch)
        return next(matching, None)


class EvaluationReport(_Value):
    """What one variant keeps, in raw numbers and in summary.

    `seeds`, `returns`, `lengths` and `trajectories` are by episode, in the order of the seeds.
    """

    schema_version: Literal[1] = 1
    policy: Slug
    variant: Slug
    model_sha256: Sha256 = Field(description="of the stored bytes that were measured")
    baseline_variant: Slug
    baseline_sha256: Sha256 = Field(description="of the baseline to which fidelity refers")
    protocol: EvaluationProtocol
    seeds: list[int]
    returns: list[float] = Field(description="undiscounted")
    lengths: list[int] = Field(description="agent steps")
    trajectories: list[Sha256] = Field(description="sha256 of each episode's actions")
    distinct_trajectories: int = Field(ge=1)
    mean: float
    interval: Interval = Field(description="percentile bootstrap of the mean")
    iqm: float = Field(description="interquartile mean: without the lowest and highest quarter")
    iqm_interval: Interval = Field(description="percentile bootstrap of the interquartile mean")
    fidelity: Fidelity | None = Field(description="null where the baseline could not be loaded")
    bytes: int = Field(ge=0, description="of the model on disk, everything included")
    latency: LatencyReport | None = None
    versions: dict[str, str] = Field(description="library versions during play")

    @model_validator(mode="after")
    def _check_lengths(self) -> EvaluationReport:
        episodes = self.protocol.episodes
        for name in ("seeds", "returns", "lengths", "trajectories"):
            count = len(getattr(self, name))
            if count != episodes:
                problem = f"{name}: expected {episodes} entries, one per episode, received {count}"
                raise ValueError(problem)
        return self
