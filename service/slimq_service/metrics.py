"""The service's metrics, on a registry that is handed in.

Label values come from the repository's listing, never from a request: what is not known collapses
to `unknown`. Every label set is initialised when a variant appears, so that `rate()` sees the first
event.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from slimq import __version__
from slimq.core import errors
from slimq_service.problems import INTERNAL

UNKNOWN = "unknown"
INFERENCE_BUCKETS = tuple(25e-6 * 2**step for step in range(17))
"""25 µs to 1.6 s, a factor of 2 apart."""
HTTP_BUCKETS = tuple(0.25e-3 * 2**step for step in range(17))
"""0.25 ms to 16 s, a factor of 2 apart."""
BATCH_BUCKETS = tuple(2**step for step in range(9))
"""1 to 256 observations, a factor of 2 apart."""
DISPATCH_REASONS = ("idle", "freed", "full")
CLIENT_GONE = "client-gone"
ERROR_CODES = (
    errors.InvalidInputError.code,
    errors.ObservationError.code,
    errors.LimitError.code,
    errors.MalformedError.code,
    errors.MediaTypeError.code,
    errors.ConflictError.code,
    errors.NonFiniteError.code,
    errors.BodyTimeoutError.code,
    errors.OverloadedError.code,
    errors.DeadlineError.code,
    errors.ClosingError.code,
    errors.NotFoundError.code,
    errors.RepositoryError.code,
    CLIENT_GONE,
    INTERNAL,
)
"""What can go wrong with a request for actions, by act or by the protocol."""
NO_SUCH_PATH = "no-such-path"
METHOD_NOT_ALLOWED = "method-not-allowed"
WIRE_CODES = (
    errors.HeadLimitError.code,
    errors.HeadTimeoutError.code,
    errors.MalformedRequestError.code,
    errors.ConnectionsError.code,
)
"""What a connection is closed for before there is a request."""
ACCESS_CODES = (errors.UnauthorizedError.code, errors.ForbiddenError.code)
HTTP_ERROR_CODES = (NO_SUCH_PATH, METHOD_NOT_ALLOWED, *WIRE_CODES, *ACCESS_CODES, *ERROR_CODES)
"""What can go wrong with any other request."""

_LABELS = ("policy", "variant")


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
    batches: dict[str, Counter] = field(default_factory=dict)
    errors: dict[str, Counter] = field(default_factory=dict)


class Metrics:
    """Every metric of the service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Registers the metrics; `_created` series are turned off for the process."""
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry
        self._requests = Counter(
            "slimq_requests",
            "Requests for actions, whatever their answer",
            _LABELS,
            registry=registry,
        )
        self._observations = Counter(
            "slimq_observations", "Observations that were answered", _LABELS, registry=registry
        )
        self._errors = Counter(
            "slimq_errors",
            "Requests for actions that ended in an error",
            (*_LABELS, "code"),
            registry=registry,
        )
        self._http_errors = Counter(
            "slimq_http_errors",
            "Other requests answered with an error",
            ("code",),
            registry=registry,
        )
        for code in HTTP_ERROR_CODES:
            self._http_errors.labels(code)
        self._inference = Histogram(
            "slimq_inference_seconds",
            "Time in the model of the batch that a request's observations were computed in",
            _LABELS,
            buckets=INFERENCE_BUCKETS,
            registry=registry,
        )
        self._queue = Histogram(
            "slimq_queue_seconds",
            "Time that a request waited for threads, from its whole body on",
            _LABELS,
            buckets=INFERENCE_BUCKETS,
            registry=registry,
        )
        self._batch = Histogram(
            "slimq_batch_observations",
            "Observations of a batch that was computed in a thread",
            _LABELS,
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._batches = Counter(
            "slimq_batches",
            "Batches computed in a thread, by why they were dispatched",
            (*_LABELS, "reason"),
            registry=registry,
        )
        self.queue_depth = Gauge(
            "slimq_queue_depth", "Requests that wait for a thread now", registry=registry
        )
        self._http = Histogram(
            "slimq_http_request_seconds",
            "Time of a request for actions, from its headers to its answer",
            _LABELS,
            buckets=HTTP_BUCKETS,
            registry=registry,
        )
        self._loaded = Gauge(
            "slimq_variant_loaded", "1 while the variant is in memory", _LABELS, registry=registry
        )
        self._memory = Gauge(
            "slimq_variant_memory_bytes",
            "Bytes that the process grew by when the variant was loaded, 0 when it is not",
            _LABELS,
            registry=registry,
        )
        self._evictions = Counter(
            "slimq_variant_evictions",
            "Times that the variant had to make room for others",
            _LABELS,
            registry=registry,
        )
        self._loads = Counter(
            "slimq_variant_loads",
            "Loads of a variant's model by outcome",
            (*_LABELS, "outcome"),
            registry=registry,
        )
        self.in_flight = Gauge(
            "slimq_requests_in_flight", "Requests for actions being answered now", registry=registry
        )
        info = Gauge("slimq_info", "Facts about this process", ("version",), registry=registry)
        info.labels(__version__).set(1)
        self._variants: dict[tuple[str, str], VariantMetrics] = {}
        self.appear(UNKNOWN, UNKNOWN)

    def appear(self, policy: str, variant: str) -> None:
        """Initialises the series of a variant of the repository."""
        key = (policy, variant)
        if key in self._variants:
            return
        self._variants[key] = VariantMetrics(
            requests=self._requests.labels(*key),
            observations=self._observations.labels(*key),
            inference_seconds=self._inference.labels(*key),
            queue_seconds=self._queue.labels(*key),
            batch_observations=self._batch.labels(*key),
            http_seconds=self._http.labels(*key),
            loaded=self._loaded.labels(*key),
            memory_bytes=self._memory.labels(*key),
            evictions=self._evictions.labels(*key),
            loads=self._loads.labels(*key, "success"),
            load_failures=self._loads.labels(*key, "failure"),
            batches={why: self._batches.labels(*key, why) for why in DISPATCH_REASONS},
            errors={code: self._errors.labels(*key, code) for code in ERROR_CODES},
        )

    def of(self, policy: str | None, variant: str | None) -> VariantMetrics:
        """The series of a variant that has appeared, or the ones of the unknown."""
        known = self._variants.get((policy or "", variant or ""))
        return known if known is not None else self._variants[UNKNOWN, UNKNOWN]

    def error(self, policy: str | None, variant: str | None, code: str) -> None:
        """Counts such a request's error; a code that is not in the table counts as internal."""
        counters = self.of(policy, variant).errors
        counters.get(code, counters[INTERNAL]).inc()

    def http_error(self, code: str) -> None:
        """Counts an error outside act; the code is one of ours or of an HTTP status."""
        self._http_errors.labels(code).inc()
