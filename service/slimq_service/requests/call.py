"""One call on its way: a request for actions, or one message of a stream."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import IntEnum

from slimq_service.metrics.statistics import Stages
from slimq_service.variants.loading import Leases

CALL = "slimq.call"
"""Key of a request's scope under which its call is kept for the access log and for traces."""


class Body(IntEnum):
    """How much of a request's body has been read."""

    UNREAD = 0
    PARTIAL = 1
    WHOLE = 2


@dataclass(slots=True)
class Call:
    """One call, filled in as it becomes known; what metrics, logs and errors need of it.

    Times are those of `perf_counter_ns`: the call `arrived` with its first message, and answering
    it `began` once its body was whole.
    """

    policy: str | None = None
    variant: str | None = None
    body: Body = Body.UNREAD
    observations: int = 0
    executions: int = 0
    leases: Leases | None = None
    arrived: int = field(default_factory=time.perf_counter_ns)
    began: int = 0
    stages: Stages = field(default_factory=Stages)

    def __post_init__(self) -> None:
        self.began = self.began or self.arrived

    def hold(self, leases: Leases | None) -> None:
        """Keeps a variant in memory until the call is over, instead of the one held before."""
        if self.leases is not None:
            self.leases.count -= 1
        self.leases = leases
        if leases is not None:
            leases.count += 1
