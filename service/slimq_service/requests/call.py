"""One call on its way: a request for actions, or one message of a stream."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from slimq_service.metrics.statistics import Stages
from slimq_service.variants.loading import Leases

CALL = "slimq.call"
"""Key of a request's scope under which its call is kept for the access log and for traces."""


@dataclass
class Call:
    """One call on its way, filled in as it becomes known; what metrics and errors need.

    Times are those of `perf_counter_ns`: it `arrived` with its first message, and answering it
    `began` once its body was whole.
    """

    policy: str | None = None
    variant: str | None = None
    close: bool = False
    observations: int = 0
    executions: int = 0
    lease: Leases | None = None
    arrived: int = field(default_factory=time.perf_counter_ns)
    began: int = field(default_factory=time.perf_counter_ns)
    stages: Stages = field(default_factory=Stages)

    def hold(self, lease: Leases | None) -> None:
        """Keeps a session in memory instead of the one held before."""
        if self.lease is not None:
            self.lease.count -= 1
        self.lease = lease
        if lease is not None:
            lease.count += 1

    def reading(self) -> _Stage:
        """Adds the time of what is inside to that of reading the request."""
        return _Stage(self.stages, "compute_input")

    def writing(self) -> _Stage:
        """Adds the time of what is inside to that of writing the answer."""
        return _Stage(self.stages, "compute_output")


class _Stage:
    """Adds the time of what is inside to one of the stages, where that does not fail."""

    __slots__ = ("_began", "_name", "_stages")

    def __init__(self, stages: Stages, name: str) -> None:
        self._stages, self._name = stages, name

    def __enter__(self) -> None:
        self._began = time.perf_counter_ns()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            spent = getattr(self._stages, self._name) + time.perf_counter_ns() - self._began
            setattr(self._stages, self._name, spent)
