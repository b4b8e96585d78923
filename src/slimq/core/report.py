"""The evaluation report of one variant: measurements, their protocol, and the measured model.

A report contains measurements only. Comparisons of two variants (paired differences, latency
ratios) are computed when reports are read, so that a new baseline cannot leave stale ones behind.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, model_validator

from slimq.core.conditions.catalogue import Condition
from slimq.core.environment import EnvironmentSpec
from slimq.core.manifest import Sha256, Slug
from slimq.core.schema import Versioned

MAX_TRAJECTORIES = 20
"""Maximum trajectories in a report: enough to see whether play repeats, in few bytes."""
LatencyMode = Literal["interleaved", "alone"]


def _short(values: list[float]) -> list[float]:
    """Converts whole numbers to int: `.0` is a third of the bytes of thousands of returns."""
    return [int(value) if value.is_integer() else value for value in values]


Returns = Annotated[list[float], PlainSerializer(_short, return_type=list[int | float])]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EvaluationProtocol(_Value):
    """The protocol of play; only reports with equal protocols are compared.

    Atari games are scored by the game's own unclipped reward over whole games: losing a life does
    not end an episode.
    """

    environment: EnvironmentSpec = Field(
        description="id, arguments, no-op starts, sticky actions, frame skip and step limit"
    )
    epsilon: float = Field(ge=0, le=1, description="probability of a uniformly random action")
    episodes: int = Field(ge=1, description="number of episodes, one per seed")
    seed_range: str = Field(description="name of the range of episode seeds")
    first_seed: int = Field(ge=0, description="seeds are consecutive from here")
    resamples: int = Field(ge=1, description="bootstrap resamples of every interval")
    confidence: float = Field(
        default=0.95, gt=0, lt=1, description="confidence level of every interval"
    )
    fidelity_states: int = Field(
        ge=1,
        description="maximum number of states from the baseline's play on which to compare",
    )
    fidelity_episodes: int = Field(
        ge=1, description="number of episodes, from the first seed, that those states come from"
    )

    @property
    def seeds(self) -> list[int]:
        """The seed of every episode."""
        return list(range(self.first_seed, self.first_seed + self.episodes))

    @property
    def digest(self) -> str:
        """SHA-256 of the protocol as canonical JSON."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()


class Interval(_Value):
    """A confidence interval."""

    low: float
    high: float


class Fidelity(_Value):
    """A variant's fidelity to the baseline, on states from its held-out play, or recorded ones."""

    states: int = Field(ge=1)
    agreement: float = Field(ge=0, le=1, description="share of states with the same greedy action")
    near_ties: int = Field(
        ge=0, description="states where the baseline's two best Q-values differ by less than 1e-4"
    )
    agreement_without_ties: float = Field(
        ge=0, le=1, description="agreement on states that are not near ties; 1 if there are none"
    )
    regret: float = Field(
        ge=0, description="mean loss from taking the variant's action, in the baseline's Q-values"
    )
    q_error_mean: float = Field(ge=0, description="mean absolute Q-value difference")
    q_error_max: float = Field(ge=0, description="maximum absolute Q-value difference")


class LatencyMeasurement(_Value):
    """Wall-clock and processor time of one call, in microseconds."""

    mode: LatencyMode = Field(
        description="interleaved: variants take turns call by call; alone: one variant at a time"
    )
    batch: int = Field(ge=1)
    iterations: int = Field(ge=1, description="timed calls over all processes")
    p50_us: float = Field(ge=0, description="median over processes of the per-process medians")
    processes_p50_us: list[float] = Field(min_length=1, description="median of each process")
    p95_us: float = Field(ge=0, description="over all calls")
    p99_us: float = Field(ge=0, description="over all calls")
    processor_us: float = Field(ge=0, description="mean CPU time of one call, all threads")


class LatencyReport(_Value):
    """One measurement run; compare variants only within the same `run_id`."""

    run_id: str = Field(min_length=1)
    processor: str
    threads: int = Field(ge=1)
    processes: int = Field(ge=1, description="fresh processes, started one after another")
    onnxruntime: str = Field(description="version of ONNX Runtime")
    variants: list[Slug] = Field(min_length=1, description="measured in this run")
    measurements: list[LatencyMeasurement]

    def find(self, mode: LatencyMode, batch: int) -> LatencyMeasurement | None:
        """The measurement for a mode and batch size; None if there is none."""
        matching = (m for m in self.measurements if m.mode == mode and m.batch == batch)
        return next(matching, None)


class ConditionReport(_Value):
    """A variant's play under one condition, on the first seeds of the report's protocol.

    The report's protocol and versions apply here, too; a new protocol discards measurements under
    conditions.
    """

    condition: Condition
    spread: list[float] | None = Field(
        default=None,
        description="of each element in the full policy's play, where it is the unit of the "
        "strength; null for frames, whose unit is one level, and for all other conditions",
    )
    code_sha256: Sha256 | None = Field(
        default=None, description="of the file of a condition that is not built in"
    )
    returns: Returns = Field(min_length=1, description="undiscounted, in seed order")
    distinct_trajectories: int = Field(ge=1)
    mean: float
    interval: Interval = Field(description="percentile bootstrap of the mean")


class Played(NamedTuple):
    """The results of play: figures of every episode, in seed order, and their summary."""

    protocol: EvaluationProtocol
    seeds: list[int]
    returns: list[float]
    lengths: list[int]
    distinct_trajectories: int
    mean: float
    interval: Interval
    iqm: float
    iqm_interval: Interval


class EvaluationReport(Versioned):
    """One variant's evaluation: raw numbers per episode and their summary.

    `seeds`, `returns` and `lengths` have one entry per episode, in seed order, and `trajectories`
    has one for each of the first `MAX_TRAJECTORIES`. For a policy without an environment they are
    null, as is everything in `Played`, and fidelity refers to recorded states.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    policy: Slug
    variant: Slug
    model_sha256: Sha256 = Field(description="of the measured model's stored bytes")
    baseline_variant: Slug
    baseline_sha256: Sha256 = Field(description="of the baseline that fidelity refers to")
    protocol: EvaluationProtocol | None = None
    seeds: list[int] | None = None
    returns: Returns | None = Field(default=None, description="undiscounted")
    lengths: list[int] | None = Field(default=None, description="agent steps")
    trajectories: list[Sha256] | None = Field(
        default=None,
        description=f"sha256 of the actions of each of the first {MAX_TRAJECTORIES} episodes; "
        "earlier reports list all episodes or none",
    )
    distinct_trajectories: int | None = Field(default=None, ge=1)
    mean: float | None = None
    interval: Interval | None = Field(default=None, description="percentile bootstrap of the mean")
    iqm: float | None = Field(
        default=None, description="interquartile mean: mean of the middle half of the returns"
    )
    iqm_interval: Interval | None = Field(
        default=None, description="percentile bootstrap of the interquartile mean"
    )
    conditions: tuple[ConditionReport, ...] = Field(
        default=(), description="play under disturbances, each condition once"
    )
    states_sha256: Sha256 | None = Field(
        default=None,
        description="of the file of recorded states that fidelity refers to; null if they come "
        "from play",
    )
    fidelity: Fidelity | None = Field(description="null if the baseline could not be loaded")
    bytes: int = Field(ge=0, description="size of the model on disk, everything included")
    latency: LatencyReport | None = None
    versions: dict[str, str] = Field(description="library versions during play")

    @property
    def played(self) -> Played | None:
        """The part of the report that comes from play; None if the policy has no environment."""
        values = [getattr(self, name) for name in Played._fields]
        return None if values[0] is None else Played(*values)

    def under(self, condition: Condition) -> ConditionReport | None:
        """Play under a condition; None if it was not measured."""
        return next((found for found in self.conditions if found.condition == condition), None)

    @model_validator(mode="after")
    def _check_parts(self) -> EvaluationReport:
        missing = [name for name in Played._fields if getattr(self, name) is None]
        if self.protocol is None:
            names = (*Played._fields, "trajectories")
            if given := [name for name in names if getattr(self, name) is not None]:
                raise ValueError(
                    f"{given[0]}: expected null without a protocol, as nothing was played"
                )
            if self.conditions:
                raise ValueError("conditions: expected none without a protocol")
            if self.fidelity is None or self.states_sha256 is None:
                raise ValueError("fidelity, states_sha256: expected both, as nothing was played")
            return self
        if missing:
            raise ValueError(f"{missing[0]}: expected a value, as a protocol is given")
        if self.states_sha256 is not None:
            raise ValueError("states_sha256: expected null, as states come from play")
        episodes = self.protocol.episodes
        for name in ("seeds", "returns", "lengths"):
            values = getattr(self, name)
            if len(values) != episodes:
                received = f"one per episode, received {len(values)}"
                raise ValueError(f"{name}: expected {episodes} entries, {received}")
        if self.trajectories is not None and len(self.trajectories) > episodes:
            received = f"received {len(self.trajectories)}"
            raise ValueError(f"trajectories: expected at most {episodes} entries, {received}")
        conditions = [found.condition for found in self.conditions]
        if len(set(conditions)) < len(conditions):
            raise ValueError("conditions: expected each condition once")
        return self
