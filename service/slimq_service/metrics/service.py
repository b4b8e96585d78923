"""The service's metrics.

Label values come from the repository, never from a request: unknown names are counted as `unknown`.
Every label set exists as soon as its variant is in the repository, so that `rate()` sees the first
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
"""Errors of act requests, of inference requests and of stream messages."""
METHOD_NOT_ALLOWED = "method-not-allowed"
WIRE_CODES = (
    HeadLimitError.code,
    HeadTimeoutError.code,
    MalformedRequestError.code,
    ConnectionsError.code,
)
"""Errors for which a connection is closed before there is a request."""
ACCESS_CODES = (UnauthorizedError.code, ForbiddenError.code, CrossSiteError.code)
UPGRADE_REQUIRED = "upgrade-required"
HTTP_ERROR_CODES = (
    *(NO_SUCH_PATH, METHOD_NOT_ALLOWED, UPGRADE_REQUIRED),
    *WIRE_CODES,
    *ACCESS_CODES,
    errors.ServiceError.code,
    *ERROR_CODES,
)
"""Errors of all other requests, those that open a stream among them."""
STREAM_ENDS = ("client", "lost", "protocol", "too-large", "idle", "layout", "restart", "internal")
"""Reasons for which streams end."""

_LABELS = ("policy", "variant")


class Metrics:
    """Every metric of the service."""

    def __init__(self, registry: Registry) -> None:
        """Registers the metrics."""
        self.registry = registry
        self._add_requests()
        self._add_times()
        self._add_queue()
        self._add_variants()
        self._add_streams()
        self._add_process()
        self._variants: dict[tuple[str | None, str | None], VariantMetrics] = {}
        self.add(UNKNOWN, UNKNOWN)
        self._unknown = self._variants[UNKNOWN, UNKNOWN]

    def _add_requests(self) -> None:
        add = self.registry.counter
        self._requests = add(
            "slimq_requests", "Act requests and stream messages, whatever their outcome", _LABELS
        )
        self._observations = add("slimq_observations", "Observations answered", _LABELS)
        self._actions = add("slimq_actions", "Greedy actions answered", (*_LABELS, "action"))
        self._errors = add(
            "slimq_errors",
            "Act requests and stream messages that ended in an error",
            (*_LABELS, "code"),
        )
        self._http_errors = add(
            "slimq_http_errors", "Other requests that ended in an error", ("code",)
        )
        for code in HTTP_ERROR_CODES:
            self._http_errors.labels(code)
        self.in_flight = self.registry.gauge(
            "slimq_requests_in_flight", "Act requests and stream messages in progress"
        ).labels()

    def _add_times(self) -> None:
        add = self.registry.histogram
        self._http = add(
            "slimq_http_request_seconds",
            "Time from a request's headers, or from a stream's message, to its response",
            _LABELS,
            HTTP_BUCKETS,
        )
        self._parse = add(
            "slimq_parse_seconds",
            "Time to parse the body of a successful request once it has arrived",
            _LABELS,
            INFERENCE_BUCKETS,
        )
        self._queue = add(
            "slimq_queue_seconds",
            "Time a request waited for a thread, or for the rest of its batch",
            _LABELS,
            INFERENCE_BUCKETS,
        )
        self._inference = add(
            "slimq_inference_seconds",
            "Run time of the model for the batch that a request was part of",
            _LABELS,
            INFERENCE_BUCKETS,
        )
        self._response = add(
            "slimq_response_seconds", "Time to write the response", _LABELS, INFERENCE_BUCKETS
        )
        self.event_loop_lag = add(
            "slimq_event_loop_lag_seconds",
            "Event-loop wake-up delay, up to 1 ms of it rounding",
            (),
            HTTP_BUCKETS,
        ).labels()

    def _add_queue(self) -> None:
        self._batch = self.registry.histogram(
            "slimq_batch_observations", "Observations per batch", _LABELS, BATCH_BUCKETS
        )
        self._batches = self.registry.counter(
            "slimq_batches",
            "Batches by reason of dispatch: inline on the event loop, idle as a thread was free, "
            "freed as a thread became free, full as no more observations fit",
            (*_LABELS, "reason"),
        )
        add = self.registry.gauge
        self.queue_depth = add("slimq_queue_depth", "Requests waiting for a thread").labels()
        self.queue_limit = add(
            "slimq_queue_limit", "Requests that may wait for a thread at a time"
        ).labels()
        self.queue_bytes = add(
            "slimq_queue_bytes", "Bytes of bodies and observations waiting for a thread"
        ).labels()
        self.queue_bytes_limit = add(
            "slimq_queue_bytes_limit", "Bytes that may wait for a thread at a time"
        ).labels()

    def _add_variants(self) -> None:
        gauge, counter = self.registry.gauge, self.registry.counter
        self._loaded = gauge(
            "slimq_variant_loaded", "Processes that have the variant in memory", _LABELS
        )
        self._memory = gauge(
            "slimq_variant_memory_bytes",
            "Growth of the process when the variant was loaded, 0 while it is not in memory",
            _LABELS,
        )
        self._broken = gauge(
            "slimq_variant_broken", "Processes that cannot load the version on disk", _LABELS
        )
        self._loads = counter(
            "slimq_variant_loads", "Loads of the variant, by outcome", (*_LABELS, "outcome")
        )
        self._evictions = counter(
            "slimq_variant_evictions",
            "Evictions of the variant, to keep to the memory budget",
            _LABELS,
        )

    def _add_streams(self) -> None:
        gauge, counter = self.registry.gauge, self.registry.counter
        self.streams_open = gauge("slimq_streams_open", "Open streams").labels()
        self.streams_opened = counter("slimq_streams_opened", "Streams accepted").labels()
        self._streams_closed = counter(
            "slimq_streams_closed", "Streams that have ended, by reason", ("reason",)
        )
        for reason in STREAM_ENDS:
            self._streams_closed.labels(reason)

    def _add_process(self) -> None:
        add = self.registry.gauge
        self.ready = add("slimq_ready", "Processes that are ready, as in /readyz").labels()
        self.repository_readable = add(
            "slimq_repository_readable",
            "Processes that could read the repository at their latest attempt",
        ).labels()
        self.unshared_series = add(
            "slimq_unshared_series",
            "Series that only the worker holding them exposes, because the workers' temporary "
            "folder cannot be written",
        ).labels()
        info = add("slimq_info", "1, with the version of slimq", ("version",), largest=True)
        info.labels(__version__).set(1)

    def add(self, policy: str, variant: str, actions: Sequence[str] = ()) -> None:
        """Creates the series of a variant in the repository.

        Args:
            policy: its policy.
            variant: its name.
            actions: names of the policy's actions, as far as they are known.
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
        """The series of a variant, or those of `unknown` for one that was not added."""
        return self._variants.get((policy, variant), self._unknown)

    def error(self, policy: str | None, variant: str | None, code: str) -> None:
        """Counts an act request's error; a code that is not in the table counts as internal."""
        counters = self.of(policy, variant).errors
        counters.get(code, counters[INTERNAL]).inc()

    def http_error(self, code: str) -> None:
        """Counts another request's error; the code is one of ours or of an HTTP status."""
        self._http_errors.labels(code).inc()

    def stream_closed(self, reason: str) -> None:
        """Counts the end of a stream; the reason is one of `STREAM_ENDS`."""
        self._streams_closed.labels(reason).inc()
