"""Metrics of one variant: their families, and the series of each variant, looked up once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from slimq_service.metrics.codes import ERROR_CODES
from slimq_service.metrics.instruments import Counter, Gauge, Histogram
from slimq_service.metrics.registry import Registry

LABELS = ("policy", "variant")
INLINE = "inline"
DISPATCH_REASONS = (INLINE, "idle", "freed", "full")
INFERENCE_BUCKETS = tuple(25e-6 * 2**step for step in range(17))
"""25 µs to 1.6 s, a factor of 2 apart."""
HTTP_BUCKETS = tuple(0.25e-3 * 2**step for step in range(17))
"""0.25 ms to 16 s, a factor of 2 apart."""
BATCH_BUCKETS = tuple(2**step for step in range(9))
"""1 to 256 observations, a factor of 2 apart."""

COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "slimq_requests": ("Requests for actions and stream messages, answered or not", ()),
    "slimq_observations": ("Observations answered", ()),
    "slimq_errors": ("Requests for actions and stream messages that failed", ("code",)),
    "slimq_actions": ("Greedy actions returned", ("action",)),
    "slimq_batches": (
        "Batches by dispatch reason: inline in the event loop; idle, to a free thread; freed, to "
        "a thread that has just become free; full, at the maximum batch size",
        ("reason",),
    ),
    "slimq_variant_evictions": ("Evictions of the variant to free memory for others", ()),
    "slimq_variant_loads": ("Loads of the variant's model by outcome", ("outcome",)),
}
"""Help text and further labels of each family."""
GAUGES = {
    "slimq_variant_loaded": "Processes with the variant in memory",
    "slimq_variant_memory_bytes": "Growth of the process when the variant was loaded, 0 if it is "
    "not in memory",
    "slimq_variant_broken": "Processes that cannot serve the version on disk",
}
HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "slimq_inference_seconds": (
        "Model execution time of the batch that held a request's observations",
        INFERENCE_BUCKETS,
    ),
    "slimq_queue_seconds": (
        "Time that a request was queued for a thread, or to be batched with others",
        INFERENCE_BUCKETS,
    ),
    "slimq_parse_seconds": (
        "Time to decode a request that was answered, once its body was complete",
        INFERENCE_BUCKETS,
    ),
    "slimq_response_seconds": ("Time to encode the response", INFERENCE_BUCKETS),
    "slimq_batch_observations": ("Observations in a batch", BATCH_BUCKETS),
    "slimq_http_request_seconds": (
        "Time from a request's headers, or a stream message, to its response",
        HTTP_BUCKETS,
    ),
}
"""Help text and bucket bounds of each family."""


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

    def count_inline(self, observations: int) -> None:
        """Counts a batch that ran in the event loop."""
        self.inline_batches.inc()
        self.batch_observations.observe(observations)

    def count_actions(self, actions: Sequence[int]) -> None:
        """Counts observations, and the greedy action of each.

        Actions without a name are not counted; they occur while a policy with other actions is
        being published.
        """
        self.observations.inc(len(actions))
        counters = self.actions
        for action in actions:
            if action < len(counters):
                counters[action].inc()


class VariantFamilies:
    """The families with one series for each variant."""

    def __init__(self, registry: Registry) -> None:
        """Registers them."""
        self._counters = {
            name: registry.counter(name, description, (*LABELS, *more))
            for name, (description, more) in COUNTERS.items()
        }
        self._gauges = {
            name: registry.gauge(name, description, LABELS) for name, description in GAUGES.items()
        }
        self._histograms = {
            name: registry.histogram(name, description, LABELS, bounds)
            for name, (description, bounds) in HISTOGRAMS.items()
        }

    def make(self, policy: str, variant: str) -> VariantMetrics:
        """The series of a variant, without those of its actions."""
        key = policy, variant
        counters = self._counters
        gauges = {name: family.labels(*key) for name, family in self._gauges.items()}
        histograms = {name: family.labels(*key) for name, family in self._histograms.items()}
        batches = counters["slimq_batches"]
        errors, loads = counters["slimq_errors"], counters["slimq_variant_loads"]
        return VariantMetrics(
            requests=counters["slimq_requests"].labels(*key),
            observations=counters["slimq_observations"].labels(*key),
            evictions=counters["slimq_variant_evictions"].labels(*key),
            loads=loads.labels(*key, "success"),
            load_failures=loads.labels(*key, "failure"),
            inline_batches=batches.labels(*key, INLINE),
            batches={reason: batches.labels(*key, reason) for reason in DISPATCH_REASONS},
            errors={code: errors.labels(*key, code) for code in ERROR_CODES},
            loaded=gauges["slimq_variant_loaded"],
            memory_bytes=gauges["slimq_variant_memory_bytes"],
            broken=gauges["slimq_variant_broken"],
            inference_seconds=histograms["slimq_inference_seconds"],
            queue_seconds=histograms["slimq_queue_seconds"],
            parse_seconds=histograms["slimq_parse_seconds"],
            response_seconds=histograms["slimq_response_seconds"],
            batch_observations=histograms["slimq_batch_observations"],
            http_seconds=histograms["slimq_http_request_seconds"],
        )

    def name_actions(
        self, measured: VariantMetrics, key: tuple[str, str], actions: Sequence[str]
    ) -> None:
        """Gives a variant one counter for each of its actions."""
        family = self._counters["slimq_actions"]
        measured.actions[:] = [family.labels(*key, action) for action in actions]
