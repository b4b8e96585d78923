"""The service's metrics, on a registry that is handed in.

Label values come from the repository's listing, never from a request: what is not known collapses
to `unknown`. Every label set is initialised when a variant appears, so that `rate()` sees the first
event.
"""

from __future__ import annotations

from collections.abc import Sequence

from slimq import __version__
from slimq.core import errors
from slimq_service.errors import (
    BodyTimeoutError,
    ClosingError,
    ConflictError,
    ConnectionsError,
    CrossSiteError,
    DeadlineError,
    ForbiddenError,
    HeadLimitError,
    HeadTimeoutError,
    LayoutChangedError,
    LimitError,
    MalformedError,
    MalformedRequestError,
    MediaTypeError,
    NonFiniteError,
    OverloadedError,
    UnauthorizedError,
)
from slimq_service.http.problems import INTERNAL, NO_SUCH_PATH
from slimq_service.metrics.registry import Registry
from slimq_service.metrics.variant_metrics import VariantMetrics

UNKNOWN = "unknown"
INFERENCE_BUCKETS = tuple(25e-6 * 2**step for step in range(17))
"""25 µs to 1.6 s, a factor of 2 apart."""
HTTP_BUCKETS = tuple(0.25e-3 * 2**step for step in range(17))
"""0.25 ms to 16 s, a factor of 2 apart."""
BATCH_BUCKETS = tuple(2**step for step in range(9))
"""1 to 256 observations, a factor of 2 apart."""
INLINE = "inline"
DISPATCH_REASONS = (INLINE, "idle", "freed", "full")
CLIENT_GONE = "client-gone"
ERROR_CODES = (
    errors.InvalidInputError.code,
    errors.ObservationError.code,
    LimitError.code,
    MalformedError.code,
    MediaTypeError.code,
    ConflictError.code,
    NonFiniteError.code,
    BodyTimeoutError.code,
    OverloadedError.code,
    DeadlineError.code,
    ClosingError.code,
    errors.NotFoundError.code,
    errors.RepositoryError.code,
    LayoutChangedError.code,
    CLIENT_GONE,
    INTERNAL,
)
"""What can go wrong with a request for actions, by act, by the protocol or in a stream."""
METHOD_NOT_ALLOWED = "method-not-allowed"
WIRE_CODES = (
    HeadLimitError.code,
    HeadTimeoutError.code,
    MalformedRequestError.code,
    ConnectionsError.code,
)
"""What a connection is closed for before there is a request."""
ACCESS_CODES = (UnauthorizedError.code, ForbiddenError.code, CrossSiteError.code)
UPGRADE_REQUIRED = "upgrade-required"
HTTP_ERROR_CODES = (
    *(NO_SUCH_PATH, METHOD_NOT_ALLOWED, UPGRADE_REQUIRED),
    *WIRE_CODES,
    *ACCESS_CODES,
    errors.ServiceError.code,
    *ERROR_CODES,
)
"""What can go wrong with any other request, that for a stream among them."""
STREAM_ENDS = ("client", "lost", "protocol", "too-large", "idle", "layout", "restart", "internal")
"""Why streams end."""

_LABELS = ("policy", "variant")


class Metrics:
    """Every metric of the service."""

    def __init__(self, registry: Registry) -> None:
        """Registers the metrics."""
        self.registry = registry
        self._requests = registry.counter(
            "slimq_requests",
            "Requests for actions and messages of streams, whatever their answer",
            _LABELS,
        )
        self._observations = registry.counter(
            "slimq_observations", "Observations that were answered", _LABELS
        )
        self._errors = registry.counter(
            "slimq_errors",
            "Requests for actions and messages of streams that ended in an error",
            (*_LABELS, "code"),
        )
        self._http_errors = registry.counter(
            "slimq_http_errors", "Other requests answered with an error", ("code",)
        )
        for code in HTTP_ERROR_CODES:
            self._http_errors.labels(code)
        self._inference = registry.histogram(
            "slimq_inference_seconds",
            "Time in the model of the batch that a request's observations were computed in",
            _LABELS,
            INFERENCE_BUCKETS,
        )
        self._queue = registry.histogram(
            "slimq_queue_seconds",
            "Time that a request waited for threads, or for others that it is computed with",
            _LABELS,
            INFERENCE_BUCKETS,
        )
        self._parse = registry.histogram(
            "slimq_parse_seconds",
            "Time that it took to read a request that was answered, from its whole body on",
            _LABELS,
            INFERENCE_BUCKETS,
        )
        self._response = registry.histogram(
            "slimq_response_seconds",
            "Time that it took to write the answer",
            _LABELS,
            INFERENCE_BUCKETS,
        )
        self._actions = registry.counter(
            "slimq_actions", "Greedy actions of what was answered", (*_LABELS, "action")
        )
        self._batch = registry.histogram(
            "slimq_batch_observations",
            "Observations of a batch",
            _LABELS,
            BATCH_BUCKETS,
        )
        self._batches = registry.counter(
            "slimq_batches",
            "Batches by why they were dispatched: inline in the event loop, idle to a free thread, "
            "freed by a thread that had become free, full as that was all a batch may hold",
            (*_LABELS, "reason"),
        )
        self.queue_depth = registry.gauge(
            "slimq_queue_depth", "Requests that wait for a thread now"
        ).labels()
        self.queue_limit = registry.gauge(
            "slimq_queue_limit", "Requests that may wait for a thread"
        ).labels()
        self.queue_bytes = registry.gauge(
            "slimq_queue_bytes", "Bytes of bodies and observations that wait for a thread now"
        ).labels()
        self.queue_bytes_limit = registry.gauge(
            "slimq_queue_bytes_limit", "Bytes of them that may wait for a thread"
        ).labels()
        self.ready = registry.gauge(
            "slimq_ready", "Processes that are ready, as /readyz has it"
        ).labels()
        self.repository_readable = registry.gauge(
            "slimq_repository_readable",
            "Processes that could list the repository when they last looked",
        ).labels()
        self.unshared_series = registry.gauge(
            "slimq_unshared_series",
            "Series that only the worker that has them exposes, as the workers' temporary folder "
            "cannot be written",
        ).labels()
        self.event_loop_lag = registry.histogram(
            "slimq_event_loop_lag_seconds",
            "How late the event loop was to wake a task that sleeps, up to 1 ms of it rounding",
            (),
            HTTP_BUCKETS,
        ).labels()
        self._http = registry.histogram(
            "slimq_http_request_seconds",
            "Time from a request's headers, or from a stream's message, to its answer",
            _LABELS,
            HTTP_BUCKETS,
        )
        self._loaded = registry.gauge(
            "slimq_variant_loaded", "Processes that have the variant in memory", _LABELS
        )
        self._memory = registry.gauge(
            "slimq_variant_memory_bytes",
            "Bytes that the process grew by when the variant was loaded, 0 when it is not",
            _LABELS,
        )
        self._broken = registry.gauge(
            "slimq_variant_broken", "Processes that cannot serve what is on disk now", _LABELS
        )
        self._evictions = registry.counter(
            "slimq_variant_evictions", "Times that the variant had to make room for others", _LABELS
        )
        self._loads = registry.counter(
            "slimq_variant_loads", "Loads of a variant's model by outcome", (*_LABELS, "outcome")
        )
        self.in_flight = registry.gauge(
            "slimq_requests_in_flight",
            "Requests for actions and messages of streams being answered now",
        ).labels()
        self.streams_open = registry.gauge(
            "slimq_streams_open", "Streams that are open now"
        ).labels()
        self.streams_opened = registry.counter(
            "slimq_streams_opened", "Streams that were accepted"
        ).labels()
        self._streams_closed = registry.counter(
            "slimq_streams_closed", "Streams that have ended", ("reason",)
        )
        for reason in STREAM_ENDS:
            self._streams_closed.labels(reason)
        info = registry.gauge("slimq_info", "Facts about this process", ("version",), largest=True)
        info.labels(__version__).set(1)
        self._variants: dict[tuple[str | None, str | None], VariantMetrics] = {}
        self.appear(UNKNOWN, UNKNOWN)
        self._unknown = self._variants[UNKNOWN, UNKNOWN]

    def appear(self, policy: str, variant: str, actions: Sequence[str] = ()) -> None:
        """Initialises the series of a variant of the repository.

        Args:
            policy: its policy.
            variant: its name.
            actions: what the policy calls its actions, as far as that is known.
        """
        key = (policy, variant)
        if key not in self._variants:
            self._variants[key] = self._make(key)
        if actions:
            counters = [self._actions.labels(*key, action) for action in actions]
            self._variants[key].actions[:] = counters

    def _make(self, key: tuple[str, str]) -> VariantMetrics:
        return VariantMetrics(
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
            broken=self._broken.labels(*key),
            parse_seconds=self._parse.labels(*key),
            response_seconds=self._response.labels(*key),
            inline_batches=self._batches.labels(*key, INLINE),
            batches={why: self._batches.labels(*key, why) for why in DISPATCH_REASONS},
            errors={code: self._errors.labels(*key, code) for code in ERROR_CODES},
        )

    def of(self, policy: str | None, variant: str | None) -> VariantMetrics:
        """The series of a variant that has appeared, or the ones of the unknown."""
        return self._variants.get((policy, variant), self._unknown)

    def error(self, policy: str | None, variant: str | None, code: str) -> None:
        """Counts such a request's error; a code that is not in the table counts as internal."""
        counters = self.of(policy, variant).errors
        counters.get(code, counters[INTERNAL]).inc()

    def http_error(self, code: str) -> None:
        """Counts an error outside act; the code is one of ours or of an HTTP status."""
        self._http_errors.labels(code).inc()

    def stream_closed(self, reason: str) -> None:
        """Counts the end of a stream; the reason is one of `STREAM_ENDS`."""
        self._streams_closed.labels(reason).inc()
