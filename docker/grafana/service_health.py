"""The dashboard *Service health*: availability, load and rejected requests."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from panels import (
    BYTES,
    FROM_BUCKETS,
    NUMBER,
    RATE,
    SECONDS,
    SHARE,
    WHOSE,
    Panel,
    Query,
    chosen,
    figure,
    lines,
)

UID = "slimq-health"
HERE = 'instance=~"$instance"'
"""Matcher of the selected replicas."""
REJECTED = "overloaded|deadline|closing"
"""Codes of requests that the service rejects to protect itself."""


def build() -> dashboard.Dashboard:
    """Builds the dashboard."""
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
    """A rate per second over the selected replicas."""
    return f"sum by ({by}) (rate({name}{{{HERE}{more}}}[$__rate_interval]))"


def variants_with(name: str) -> str:
    """Number of variants for which a gauge is set in some process, each counted once."""
    return f"count(max by (policy, variant) ({name}{{{HERE}}}) > 0) or vector(0)"


def figures() -> list[Panel]:
    """The numbers at the top."""
    return [
        figure(title, NUMBER, expression, description=text)
        for title, expression, text in (
            (
                "Replicas up",
                f'sum(up{{job="slimq",{HERE}}})',
                "Instances that answered the last scrape, whether ready for requests or not.",
            ),
            (
                "Processes ready",
                f"sum(slimq_ready{{{HERE}}})",
                "Processes that receive requests from a load balancer: /readyz is 200.",
            ),
            (
                "Requests waiting",
                f"sum(slimq_queue_depth{{{HERE}}})",
                "Requests waiting for an inference thread.",
            ),
            (
                "Variants in memory",
                variants_with("slimq_variant_loaded"),
                "Over all policies; each counted once, even if several processes have loaded it.",
            ),
            (
                "Variants broken",
                variants_with("slimq_variant_broken"),
                "The published version cannot be served; the previous one may still answer.",
            ),
            ("Streams open", f"sum(slimq_streams_open{{{HERE}}})", "Control loops over WebSocket."),
        )
    ]


def traffic() -> list[Panel]:
    """Request rate and errors."""
    rejected = rate("slimq_errors_total", "code", f',code=~"{REJECTED}"')
    others = rate("slimq_http_errors_total", "code", f',code=~"{REJECTED}|too-many-connections"')
    return [
        lines(
            "Requests per second",
            RATE,
            Query(rate("slimq_requests_total", "policy"), "{{policy}}"),
            stacked=True,
            description="Act requests and messages of streams, successful or not.",
        ),
        lines(
            "Errors per second",
            RATE,
            Query(rate("slimq_errors_total", "code"), "{{code}}"),
            Query(rate("slimq_http_errors_total", "code"), "{{code}}, other requests"),
            description=f"{WHOSE} Other requests: those that are not act requests, or that were "
            "rejected before they were known to be.",
        ),
        lines(
            "Rejected per second",
            RATE,
            Query(rejected, "{{code}}"),
            Query(others, "{{code}}, other requests"),
            description="Requests rejected to protect the service; also counted as errors.",
        ),
    ]


def saturation() -> list[Panel]:
    """Saturation: how close the service is to its limits."""
    lag = f"histogram_quantile(0.99, {rate('slimq_event_loop_lag_seconds_bucket', 'instance, le')})"
    wait = f"histogram_quantile(0.99, {rate('slimq_queue_seconds_bucket', 'policy, le')})"
    filled = f"slimq_queue_depth{{{HERE}}} / slimq_queue_limit{{{HERE}}}"
    bytes_filled = f"slimq_queue_bytes{{{HERE}}} / slimq_queue_bytes_limit{{{HERE}}}"
    full = (
        "Requests waiting for a thread, and their bytes, as a share of their limits; at 100 % of "
        "either, the next request is rejected."
    )
    waited = f"Waiting for a thread, or for the rest of a batch. {FROM_BUCKETS}"
    late = f"Delays every request of an instance; up to 1 ms is rounding. {FROM_BUCKETS}"
    return [
        lines(
            "Queue filled",
            SHARE,
            Query(filled, "{{instance}}, requests"),
            Query(bytes_filled, "{{instance}}, bytes"),
            description=full,
        ),
        lines("p99 of waiting", SECONDS, Query(wait, "{{policy}}"), description=waited),
        lines(
            "p99 of the event loop's lag",
            SECONDS,
            Query(lag, "{{instance}}"),
            description=late,
        ),
        lines(
            "Requests in flight",
            NUMBER,
            Query(f"slimq_requests_in_flight{{{HERE}}}", "{{instance}}"),
            description="Requests in progress, including those that wait.",
        ),
    ]


def variants() -> list[Panel]:
    """Variants in memory, their loads and evictions."""
    loads = f"sum by (outcome) (increase(slimq_variant_loads_total{{{HERE}}}[5m]))"
    evictions = f"sum(increase(slimq_variant_evictions_total{{{HERE}}}[5m]))"
    taken = f"sum by (instance) (slimq_variant_memory_bytes{{{HERE}}})"
    grown = "Growth of the processes when they loaded variants, summed over an instance's workers."
    return [
        lines(
            "Loads and evictions in five minutes",
            NUMBER,
            Query(loads, "{{outcome}}"),
            Query(evictions, "evictions"),
            description="Many evictions mean that the memory budget is too small for the traffic.",
        ),
        lines("Memory of variants", BYTES, Query(taken, "{{instance}}"), description=grown),
    ]


def processes() -> list[Panel]:
    """Processor time, memory, file descriptors."""
    workers = "Summed over an instance's workers."
    return [
        lines(
            "Resident memory",
            BYTES,
            Query(f"process_resident_memory_bytes{{{HERE}}}", "{{instance}}"),
            description=workers,
        ),
        lines(
            "Processors busy",
            NUMBER,
            Query(f"rate(process_cpu_seconds_total{{{HERE}}}[$__rate_interval])", "{{instance}}"),
            description=f"1 is one fully busy processor. {workers}",
        ),
        lines(
            "Open files",
            NUMBER,
            Query(f"process_open_fds{{{HERE}}}", "{{instance}}"),
            description=f"Including connections. {workers}",
        ),
        lines(
            "Time of a scrape",
            SECONDS,
            Query(f'scrape_duration_seconds{{job="slimq",{HERE}}}', "{{instance}}"),
            description="Time that the instance takes to answer Prometheus.",
        ),
    ]
