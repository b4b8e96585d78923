"""What is counted of one variant: its series, looked up once, and what changes several of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from slimq_service.metrics.instruments import Counter, Gauge, Histogram


@dataclass(frozen=True)
class VariantMetrics:
    """The series of one variant, looked up once."""

    requests: Counter
    observations: Counter
    inference_seconds: Histogram
    queue_seconds: Histogram
    batch_observations: Histogram
    http_seconds: Histogram
    loaded: Gauge
    memory_bytes: Gauge
    evictions: Counter
    loads: Counter
    load_failures: Counter
    broken: Gauge
    parse_seconds: Histogram
    response_seconds: Histogram
    inline_batches: Counter
    actions: list[Counter] = field(default_factory=list)
    batches: dict[str, Counter] = field(default_factory=dict)
    errors: dict[str, Counter] = field(default_factory=dict)

    def count_stages(self, parse: int, response: int) -> None:
        """Counts what reading a request took and what writing its answer, in nanoseconds."""
        self.parse_seconds.observe(parse * 1e-9)
        self.response_seconds.observe(response * 1e-9)

    def count_inline(self, observations: int) -> None:
        """Counts a batch that was computed in the event loop."""
        self.inline_batches.inc()
        self.batch_observations.observe(observations)

    def count_actions(self, actions: Sequence[int]) -> None:
        """Counts the greedy action of each observation.

        While a policy with other actions is being published, some may have no name any more; those
        are not counted.
        """
        counters = self.actions
        for action in actions:
            if action < len(counters):
                counters[action].inc()
