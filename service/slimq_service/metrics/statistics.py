"""What the requests of each variant took, stage by stage, in counts and nanoseconds.

The counters are plain integers of this process that only the event loop touches; Triton's clients
and load tools take differences of them. Prometheus has its own in `metrics.py`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Duration:
    """How often something happened, and how long it took in all."""

    count: int = 0
    nanoseconds: int = 0

    def add(self, nanoseconds: int) -> None:
        """Counts one more."""
        self.count += 1
        self.nanoseconds += nanoseconds


@dataclass(slots=True)
class Stages:
    """Nanoseconds of one request: waiting for its run, reading, the model, writing."""

    queue: int = 0
    compute_input: int = 0
    compute_infer: int = 0
    compute_output: int = 0


@dataclass(slots=True)
class VariantStatistics:
    """Totals of one variant since the process started.

    Attributes:
        success: requests that were answered, from their whole body to their response.
        fail: requests that ended in an error, likewise.
        stages: where the time of those that were answered went.
        inferences: observations that were answered.
        executions: runs of the model that led to an answer.
        last_inference: milliseconds since 1970 of the latest answer, 0 before the first.
    """

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    stages: Stages = field(default_factory=Stages)
    inferences: int = 0
    executions: int = 0
    last_inference: int = 0

    def succeed(self, nanoseconds: int, stages: Stages, observations: int, executions: int) -> None:
        """Counts a request that was answered; several may share one run of the model."""
        self.success.add(nanoseconds)
        total = self.stages
        total.queue += stages.queue
        total.compute_input += stages.compute_input
        total.compute_infer += stages.compute_infer
        total.compute_output += stages.compute_output
        self.inferences += observations
        self.executions += executions
        self.last_inference = time.time_ns() // 1_000_000


class Statistics:
    """The totals of every variant that was asked for."""

    def __init__(self) -> None:
        self._variants: dict[tuple[str, str], VariantStatistics] = {}

    def of(self, policy: str, variant: str) -> VariantStatistics:
        """The totals of a variant, which callers make sure that there is."""
        key = (policy, variant)
        found = self._variants.get(key)
        if found is None:
            found = self._variants[key] = VariantStatistics()
        return found
