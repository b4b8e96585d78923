"""The dashboard *Service health*: whether the service answers, how busy it is, what it refuses."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from panels import (
    BYTES,
    FROM_BUCKETS,
    NUMBER,
    RATE,
    SECONDS,
    SHARE,
    Panel,
    Query,
    chosen,
    figure,
    lines,
)

UID = "slimq-health"
HERE = 'instance=~"$instance"'
"""The matcher of the chosen replicas."""
REJECTED = "overloaded|deadline|closing"
"""Codes of requests that the service refuses to protect itself."""


def build() -> dashboard.Dashboard:
    """The dashboard."""
    made = (
        dashboard.Dashboard("slimq / Service health")
        .uid(UID)
        .tags(["slimq"])
        .readonly()
        .refresh("10s")
        .time("now-1h", "now")
        .with_variable(
            chosen("instance", "instance", 'label_values(up{job="slimq"}, instance)', several=True)
        )
    )
    for panel in [*figures(), *traffic(), *saturation(), *variants(), *processes()]:
        made.with_panel(panel)
    return made


def rate(name: str, by: str, more: str = "") -> str:
    """Per second, over the chosen replicas."""
    return f"sum by ({by}) (rate({name}{{{HERE}{more}}}[$__rate_interval]))"


def variants_with(name: str) -> str:
    """How many variants have this in some process, each counted once."""
    return f"count(max by (policy, variant) ({name}{{{HERE}}}) > 0) or vector(0)"


def figures() -> list[Panel]:
    """The numbers at the top."""
    return [
        figure("Replicas up", NUMBER, f'sum(up{{job="slimq",{HERE}}})'),
        figure("Requests in flight", NUMBER, f"sum(slimq_requests_in_flight{{{HERE}}})"),
        figure("Requests waiting", NUMBER, f"sum(slimq_queue_depth{{{HERE}}})"),
        figure("Variants in memory", NUMBER, variants_with("slimq_variant_loaded")),
        figure("Variants broken", NUMBER, variants_with("slimq_variant_broken")),
        figure("Streams open", NUMBER, f"sum(slimq_streams_open{{{HERE}}})"),
    ]


def traffic() -> list[Panel]:
    """Rate and errors."""
    rejected = rate("slimq_errors_total", "code", f',code=~"{REJECTED}"')
    others = rate("slimq_http_errors_total", "code", f',code=~"{REJECTED}|too-many-connections"')
    return [
        lines(
            "Requests per second",
            RATE,
            Query(rate("slimq_requests_total", "policy"), "{{policy}}"),
            stacked=True,
        ),
        lines(
            "Errors per second",
            RATE,
            Query(rate("slimq_errors_total", "code"), "{{code}}"),
            Query(rate("slimq_http_errors_total", "code"), "{{code}}, other requests"),
        ),
        lines(
            "Rejected per second",
            RATE,
            Query(rejected, "{{code}}"),
            Query(others, "{{code}}, other requests"),
        ),
    ]


def saturation() -> list[Panel]:
    """How near the service is to its limits."""
    lag = f"histogram_quantile(0.99, {rate('slimq_event_loop_lag_seconds_bucket', 'instance, le')})"
    wait = f"histogram_quantile(0.99, {rate('slimq_queue_seconds_bucket', 'policy, le')})"
    filled = f"slimq_queue_depth{{{HERE}}} / slimq_queue_limit{{{HERE}}}"
    return [
        lines("Queue filled", SHARE, Query(filled, "{{instance}}")),
        lines("p99 of waiting", SECONDS, Query(wait, "{{policy}}"), description=FROM_BUCKETS),
        lines(
            "p99 of the event loop's lag",
            SECONDS,
            Query(lag, "{{instance}}"),
            description=FROM_BUCKETS,
        ),
        lines(
            "Requests in flight",
            NUMBER,
            Query(f"slimq_requests_in_flight{{{HERE}}}", "{{instance}}"),
        ),
    ]


def variants() -> list[Panel]:
    """What is in memory, and what happens to it."""
    loads = f"sum by (outcome) (increase(slimq_variant_loads_total{{{HERE}}}[5m]))"
    evictions = f"sum(increase(slimq_variant_evictions_total{{{HERE}}}[5m]))"
    taken = f"sum by (instance) (slimq_variant_memory_bytes{{{HERE}}})"
    return [
        lines(
            "Loads and evictions in five minutes",
            NUMBER,
            Query(loads, "{{outcome}}"),
            Query(evictions, "evictions"),
        ),
        lines("Memory of variants", BYTES, Query(taken, "{{instance}}")),
    ]


def processes() -> list[Panel]:
    """Processor, memory, descriptors."""
    return [
        lines(
            "Resident memory",
            BYTES,
            Query(f"process_resident_memory_bytes{{{HERE}}}", "{{instance}}"),
        ),
        lines(
            "Processors busy",
            NUMBER,
            Query(f"rate(process_cpu_seconds_total{{{HERE}}}[$__rate_interval])", "{{instance}}"),
        ),
        lines("Open files", NUMBER, Query(f"process_open_fds{{{HERE}}}", "{{instance}}")),
        lines(
            "Time of a scrape",
            SECONDS,
            Query(f'scrape_duration_seconds{{job="slimq",{HERE}}}', "{{instance}}"),
        ),
    ]
