"""The state of one call: a request for actions, or one message of a stream."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from slimq_service.metrics.statistics import Stages
from slimq_service.metrics.variant_metrics import VariantMetrics
from slimq_service.variants.loading import Leases

CALL = "slimq.call"
"""Scope key that holds a request's call, for the access log and traces."""


Body = Literal["unread", "partial", "whole"]
"""How much of a request's body has been read."""
UNREAD: Body = "unread"
PARTIAL: Body = "partial"
WHOLE: Body = "whole"


@dataclass(slots=True)
class Call(Stages):
    """The facts about a call that metrics, logs and errors need; filled in along the way.

    It also has the time that each of its stages has taken.

    Attributes:
        policy: the policy's name.
        variant: the name of the variant that serves the call.
        body: how much of the body has been read.
        actions: the greedy action of each observation served.
        executions: model runs to count for the call.
        leases: the leases of the variant that the call keeps in memory.
        measured: that variant's metrics.
        arrived: when its first message arrived, by `perf_counter_ns`.
        began: when its body was complete, by the same clock.
    """

    policy: str | None = None
    variant: str | None = None
    body: Body = UNREAD
    actions: Sequence[int] = ()
    executions: int = 0
    leases: Leases | None = None
    measured: VariantMetrics | None = None
    arrived: int = field(default_factory=time.perf_counter_ns)
    began: int = 0

    def hold(self, leases: Leases | None) -> None:
        """Keeps a variant in memory until the call ends, and releases the one held before."""
        if self.leases is not None:
            self.leases.count -= 1
        self.leases = leases
        if leases is not None:
            leases.count += 1
