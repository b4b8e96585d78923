"""The service's metrics, in a registry that the caller provides.

Label values come from the repository's listing, never from a request: unknown names count as
`unknown`. Every label set is initialized when a variant is added, so that `rate()` sees the first
event.
"""

from __future__ import annotations

from collections.abc import Sequence

from slimq import __version__
from slimq_service.http.problems import INTERNAL
from slimq_service.metrics.codes import HTTP_ERROR_CODES, STREAM_ENDS
from slimq_service.metrics.instruments import Gauge
from slimq_service.metrics.registry import Registry
from slimq_service.metrics.variant_metrics import HTTP_BUCKETS, VariantFamilies, VariantMetrics

UNKNOWN = "unknown"


class Metrics:
    """Every metric of the service."""

    def __init__(self, registry: Registry) -> None:
        """Registers the metrics."""
        self.registry = registry

        def gauge(name: str, description: str) -> Gauge:
            return registry.gauge(name, description).labels()

        self._families = VariantFamilies(registry)
        self._http_errors = registry.counter(
            "slimq_http_errors", "Other requests answered with an error", ("code",)
        )
        for code in HTTP_ERROR_CODES:
            self._http_errors.labels(code)
        self.queue_depth = gauge("slimq_queue_depth", "Requests queued for a thread")
        self.queue_limit = gauge("slimq_queue_limit", "Maximum number of queued requests")
        self.queue_bytes = gauge("slimq_queue_bytes", "Bytes of queued bodies and observations")
        self.queue_bytes_limit = gauge("slimq_queue_bytes_limit", "Maximum number of queued bytes")
        self.ready = gauge("slimq_ready", "Processes that are ready, as in /readyz")
        self.repository_readable = gauge(
            "slimq_repository_readable", "Processes that could list the repository at the last scan"
        )
        self.unshared_series = gauge(
            "slimq_unshared_series",
            "Series that only the worker holding them exposes, because the workers' temporary "
            "folder cannot be written",
        )
        self.in_flight = gauge(
            "slimq_requests_in_flight", "Requests for actions and stream messages in progress"
        )
        self.event_loop_lag = registry.histogram(
            "slimq_event_loop_lag_seconds",
            "Event-loop wake-up delay, of which up to 1 ms is rounding",
            (),
            HTTP_BUCKETS,
        ).labels()
        self.streams_open = gauge("slimq_streams_open", "Open streams")
        self.streams_opened = registry.counter("slimq_streams_opened", "Streams accepted").labels()
        self.streams_superseded = registry.counter(
            "slimq_streams_superseded", "Observations not run because a newer one had arrived"
        ).labels()
        self._streams_closed = registry.counter(
            "slimq_streams_closed", "Streams closed, by reason", ("reason",)
        )
        for reason in STREAM_ENDS:
            self._streams_closed.labels(reason)
        info = registry.gauge("slimq_info", "Version of the service", ("version",), largest=True)
        info.labels(__version__).set(1)
        self._variants: dict[tuple[str | None, str | None], VariantMetrics] = {}
        self.add(UNKNOWN, UNKNOWN)
        self._unknown = self._variants[UNKNOWN, UNKNOWN]

    def add(self, policy: str, variant: str, actions: Sequence[str] = ()) -> None:
        """Initializes the series of a variant of the repository.

        Args:
            policy: its policy.
            variant: its name.
            actions: names of the policy's actions, if they are known.
        """
        key = (policy, variant)
        if key not in self._variants:
            self._variants[key] = self._families.make(*key)
        if actions:
            self._families.name_actions(self._variants[key], key, actions)

    def of(self, policy: str | None, variant: str | None) -> VariantMetrics:
        """The series of a variant that has been added, otherwise those of `unknown`."""
        return self._variants.get((policy, variant), self._unknown)

    def error(self, policy: str | None, variant: str | None, code: str) -> None:
        """Counts the error of a request for actions; an unlisted code counts as internal."""
        counters = self.of(policy, variant).errors
        counters.get(code, counters[INTERNAL]).inc()

    def http_error(self, code: str) -> None:
        """Counts any other error; the code is one of the service's or an HTTP status."""
        self._http_errors.labels(code).inc()

    def stream_closed(self, reason: str) -> None:
        """Counts the end of a stream; the reason is one of `STREAM_ENDS`."""
        self._streams_closed.labels(reason).inc()
