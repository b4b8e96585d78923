"""Request statistics of each variant by stage, in counts and nanoseconds, for `/v2`.

The counters are plain integers of this process that only the event loop touches; Triton's clients
and load generators compute differences. Prometheus' metrics are in `service.py`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Duration:
    """The number of occurrences, and their total duration."""

    count: int = 0
    nanoseconds: int = 0

    def add(self, nanoseconds: int) -> None:
        """Counts one occurrence."""
        self.count += 1
        self.nanoseconds += nanoseconds


@dataclass(slots=True)
class Stages:
    """Nanoseconds of one request: queued, decoding, running the model, encoding."""

    queue: int = 0
    compute_input: int = 0
    compute_infer: int = 0
    compute_output: int = 0


@dataclass(slots=True)
class VariantStatistics:
    """Totals of one variant since the process started.

    Attributes:
        success: successful requests, from the complete body to the response.
        fail: failed requests, likewise.
        stages: time of the successful requests by stage.
        inferences: observations served.
        executions: model runs for successful requests.
        last_inference: time of the latest response in milliseconds since 1970, 0 before the first.
    """

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    stages: Stages = field(default_factory=Stages)
    inferences: int = 0
    executions: int = 0
    last_inference: int = 0

    def succeed(self, nanoseconds: int, stages: Stages, observations: int, executions: int) -> None:
        """Counts a successful request; several may share one model run."""
        self.success.count += 1
        self.success.nanoseconds += nanoseconds
        total = self.stages
        total.queue += stages.queue
        total.compute_input += stages.compute_input
        total.compute_infer += stages.compute_infer
        total.compute_output += stages.compute_output
        self.inferences += observations
        self.executions += executions
        self.last_inference = time.time_ns() // 1_000_000


class Statistics:
    """The totals of every variant that has had requests."""

    def __init__(self) -> None:
        self._variants: dict[tuple[str, str], VariantStatistics] = {}

    def of(self, policy: str, variant: str) -> VariantStatistics:
        """The totals of a variant; callers check that it exists."""
        key = (policy, variant)
        found = self._variants.get(key)
        if found is None:
            found = self._variants[key] = VariantStatistics()
        return found
