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
    WHOSE,
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
        figure(title, NUMBER, expression, description=text)
        for title, expression, text in (
            (
                "Replicas up",
                f'sum(up{{job="slimq",{HERE}}})',
                "Instances that answered the last scrape, ready for requests or not.",
            ),
            (
                "Processes ready",
                f"sum(slimq_ready{{{HERE}}})",
                "Those that a balancer would send requests to: /readyz says 200.",
            ),
            (
                "Requests waiting",
                f"sum(slimq_queue_depth{{{HERE}}})",
                "For a thread to compute them.",
            ),
            (
                "Variants in memory",
                variants_with("slimq_variant_loaded"),
                "Of all policies, each counted once however many processes have it.",
            ),
            (
                "Variants broken",
                variants_with("slimq_variant_broken"),
                "What is on disk cannot be served; the version before it may still answer.",
            ),
            ("Streams open", f"sum(slimq_streams_open{{{HERE}}})", "Control loops over WebSocket."),
        )
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
            description="For actions, and messages of streams, whatever their answer.",
        ),
        lines(
            "Errors per second",
            RATE,
            Query(rate("slimq_errors_total", "code"), "{{code}}"),
            Query(rate("slimq_http_errors_total", "code"), "{{code}}, other requests"),
            description=f"{WHOSE} Other requests are those that were none for actions, or not yet.",
        ),
        lines(
            "Rejected per second",
            RATE,
            Query(rejected, "{{code}}"),
            Query(others, "{{code}}, other requests"),
            description="What the service refuses to protect itself; part of the errors beside it.",
        ),
    ]


def saturation() -> list[Panel]:
    """How near the service is to its limits."""
    lag = f"histogram_quantile(0.99, {rate('slimq_event_loop_lag_seconds_bucket', 'instance, le')})"
    wait = f"histogram_quantile(0.99, {rate('slimq_queue_seconds_bucket', 'policy, le')})"
    filled = f"slimq_queue_depth{{{HERE}}} / slimq_queue_limit{{{HERE}}}"
    bytes_filled = f"slimq_queue_bytes{{{HERE}}} / slimq_queue_bytes_limit{{{HERE}}}"
    full = (
        "Requests that wait for a thread, of those that may, and their bytes, of those that may; "
        "at 100 % of either the next one is refused."
    )
    waited = f"For threads, or for others that a request is computed with. {FROM_BUCKETS}"
    late = f"What every request of an instance waits for; up to 1 ms is rounding. {FROM_BUCKETS}"
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
            description="Being answered now, those that wait included.",
        ),
    ]


def variants() -> list[Panel]:
    """What is in memory, and what happens to it."""
    loads = f"sum by (outcome) (increase(slimq_variant_loads_total{{{HERE}}}[5m]))"
    evictions = f"sum(increase(slimq_variant_evictions_total{{{HERE}}}[5m]))"
    taken = f"sum by (instance) (slimq_variant_memory_bytes{{{HERE}}})"
    grown = "What processes grew by when they loaded variants, the sum over an instance's workers."
    return [
        lines(
            "Loads and evictions in five minutes",
            NUMBER,
            Query(loads, "{{outcome}}"),
            Query(evictions, "evictions"),
            description="Many evictions: the memory budget is too small for what is asked for.",
        ),
        lines("Memory of variants", BYTES, Query(taken, "{{instance}}"), description=grown),
    ]


def processes() -> list[Panel]:
    """Processor, memory, descriptors."""
    workers = "The sum over an instance's workers."
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
            description=f"1 is one processor all the time. {workers}",
        ),
        lines(
            "Open files",
            NUMBER,
            Query(f"process_open_fds{{{HERE}}}", "{{instance}}"),
            description=f"Connections among them. {workers}",
        ),
        lines(
            "Time of a scrape",
            SECONDS,
            Query(f'scrape_duration_seconds{{job="slimq",{HERE}}}', "{{instance}}"),
            description="How long the instance takes to answer Prometheus.",
        ),
    ]
