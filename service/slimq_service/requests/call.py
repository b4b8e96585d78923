"""One call on its way: a request for actions, or one message of a stream."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from slimq_service.metrics.statistics import Stages
from slimq_service.metrics.variant_metrics import VariantMetrics
from slimq_service.variants.loading import Leases

CALL = "slimq.call"
"""Key of a request's scope under which its call is kept for the access log and for traces."""


Body = Literal["unread", "partial", "whole"]
"""How much of a request's body has been read."""
UNREAD: Body = "unread"
PARTIAL: Body = "partial"
WHOLE: Body = "whole"


@dataclass(slots=True)
class Call:
    """One call, filled in as it becomes known; what metrics, logs and errors need of it.

    Attributes:
        policy: its policy's name.
        variant: the name of the variant that answers.
        body: how much of it has been read.
        observations: how many were answered.
        executions: runs of the model to count for it.
        leases: of the variant that is kept in memory for it.
        measured: that variant's metrics.
        arrived: when its first message came, of `perf_counter_ns`.
        began: when its body was whole, by the same clock.
        stages: where its time went.
    """

    policy: str | None = None
    variant: str | None = None
    body: Body = UNREAD
    observations: int = 0
    executions: int = 0
    leases: Leases | None = None
    measured: VariantMetrics | None = None
    arrived: int = field(default_factory=time.perf_counter_ns)
    began: int = 0
    stages: Stages = field(default_factory=Stages)

    def hold(self, leases: Leases | None) -> None:
        """Keeps a variant in memory until the call is over, instead of the one held before."""
        if self.leases is not None:
            self.leases.count -= 1
        self.leases = leases
        if leases is not None:
            leases.count += 1

    def elapsed(self) -> int:
        """Nanoseconds since its body was whole, or since it arrived if it never was."""
        return time.perf_counter_ns() - (self.began or self.arrived)
