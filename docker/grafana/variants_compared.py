"""The dashboard *Variants compared*: return, size and latency of selected variants of a policy."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from panels import (
    BYTES,
    FROM_BUCKETS,
    NUMBER,
    RATE,
    RATIO,
    SECONDS,
    SHARE,
    WHOSE,
    YES_NO,
    Column,
    Panel,
    Query,
    by_variant,
    chosen,
    heat,
    lines,
    one_of,
)

UID = "slimq-variants"
CHOSEN = 'policy="$policy",variant=~"$variant"'
"""Matchers of the selected variants; in a panel repeated per variant, of that one only: there,
too, Grafana inserts a regular expression, with the dots of a name escaped."""
BASELINE = 'max by (policy, variant) (slimq_variant_baseline{policy="$policy"}) == 1'
STAGES = ("parse", "queue", "inference", "response")


def build() -> dashboard.Dashboard:
    """Builds the dashboard."""
    made = (
        dashboard.Dashboard("slimq / Variants compared")
        .uid(UID)
        .tags(["slimq"])
        .readonly()
        .refresh("10s")
        .time("now-15m", "now")
        .with_variable(
            chosen("policy", "policy", "label_values(slimq_variant_info, policy)", first="pong")
        )
        .with_variable(one_of("above", "offer variants", {"with requests": "0", "all": "-1"}))
        .with_variable(
            chosen("variant", "variants", offered(), several=True, regex='variant="([^"]+)"')
        )
    )
    panels = [
        keeps(),
        *(quantile(number) for number in (50, 95, 99)),
        mean_time(),
        *ratios(),
        latencies(),
        stages(),
        *throughput(),
        *errors(),
        *batches(),
        *behaviour(),
        memory(),
    ]
    for panel in panels:
        made.with_panel(panel)
    return made


def offered() -> str:
    """Variants with more than `$above` requests in the time range.

    If there are none, or nothing has been scraped twice yet, all variants in the repository.
    """
    of = 'policy="$policy"'
    busy = f"sum by (variant) (increase(slimq_requests_total{{{of}}}[$__range])) > $above"
    known = f"max by (variant) (last_over_time(slimq_variant_info{{{of}}}[$__range]))"
    return f"query_result({busy} or ({known} unless on () ({busy})))"


def fact(name: str) -> str:
    """A fact from the repository for each selected variant, the same in every replica."""
    return f"max by (variant) ({name}{{{CHOSEN}}})"


def worst_condition() -> str:
    """The lowest of a variant's bounds under standard conditions."""
    return f"min by (variant) (slimq_variant_condition_difference_low{{{CHOSEN}}})"


def recorded(rule: str) -> str:
    """A recording rule's value for each selected variant."""
    return f"sum by (variant) ({rule}{{{CHOSEN}}})"


def per(numerator: str, denominator: str) -> str:
    """The ratio of two counters' rates for each selected variant."""
    return " / ".join(rate(name, "variant") for name in (numerator, denominator))


def rate(name: str, by: str) -> str:
    """A counter's rate per second over the selected variants."""
    return f"sum by ({by}) (rate({name}{{{CHOSEN}}}[$__rate_interval]))"


def to_baseline(rule: str) -> str:
    """The ratio of a recording rule's value to that of the policy's full variant."""
    full = f'({rule}{{policy="$policy"}} and on (policy, variant) {BASELINE})'
    return f"sum by (variant) ({rule}{{{CHOSEN}}} / on (policy) group_left () {full})"


def keeps() -> Panel:
    """Return, robustness, size and latency in one table."""
    full = f'slimq_variant_bytes{{policy="$policy"}} and on (policy, variant) {BASELINE}'
    columns = [
        Column("return", NUMBER, fact("slimq_variant_return"), 2),
        Column("95 %, low", NUMBER, fact("slimq_variant_return_low"), 2),
        Column("95 %, high", NUMBER, fact("slimq_variant_return_high"), 2),
        Column("agreement", SHARE, fact("slimq_variant_agreement_ratio"), 1),
        Column("robust", YES_NO, fact("slimq_variant_robust")),
        Column("worst condition, low", SHARE, worst_condition(), 1),
        Column("bytes", BYTES, fact("slimq_variant_bytes")),
        Column("× smaller", RATIO, f"scalar(max({full})) / {fact('slimq_variant_bytes')}", 2),
        Column("p50", SECONDS, recorded("variant:slimq_http_request_seconds:p50_1m")),
        Column("p99", SECONDS, recorded("variant:slimq_http_request_seconds:p99_1m")),
        Column("mean / full", RATIO, to_baseline("variant:slimq_http_request_seconds:mean1m"), 2),
        Column("requests/s", RATE, recorded("variant:slimq_requests:rate1m")),
        Column("errors", SHARE, recorded("variant:slimq_errors:ratio1m")),
    ]
    text = (
        "Return, agreement and robustness are from the variant's report on held-out episodes; "
        "times, requests and errors are from the last minute. Robust: non-inferior to the full "
        "variant undisturbed and under every standard condition; the worst condition has the "
        "lowest bound of the difference, and -5 % is allowed. Empty: not known. "
    )
    text += f"p50 and p99: {FROM_BUCKETS.lower()}"
    return by_variant("Return, robustness, bytes and latency", columns, text)


def quantile(number: int) -> Panel:
    """A quantile of the request time."""
    query = Query(recorded(f"variant:slimq_http_request_seconds:p{number}_1m"), "{{variant}}")
    text = f"Over the requests of the last minute. {FROM_BUCKETS}"
    return lines(f"p{number}", SECONDS, query, width=8, logarithmic=True, description=text)


def mean_time() -> Panel:
    """The mean request time, which does not depend on buckets."""
    query = Query(recorded("variant:slimq_http_request_seconds:mean1m"), "{{variant}}")
    text = "Over the requests of the last minute, including errors, from headers to response."
    return lines("Mean time", SECONDS, query, width=8, description=text)


def ratios() -> list[Panel]:
    """Mean and p99 relative to the full variant."""
    text = "Relative to the policy's full variant, which must receive requests too."
    blurred = (
        f"{text} Each quantile is estimated from buckets and may be off by up to a factor of 2, "
    )
    blurred += "so this is a rough figure; the ratio of means is exact."
    return [
        lines(
            title,
            RATIO,
            Query(to_baseline(f"variant:slimq_http_request_seconds:{what}"), "{{variant}}"),
            width=8,
            description=description,
        )
        for title, what, description in (
            ("Mean time, ratio to full", "mean1m", text),
            ("p99, ratio to full", "p99_1m", blurred),
        )
    ]


def latencies() -> Panel:
    """A heat map per variant."""
    name = f"slimq_http_request_seconds_bucket{{{CHOSEN}}}"
    expression = f"sum by (le) (increase({name}[$__rate_interval]))"
    title, text = "Time of requests, $variant", "Number of requests in each time bucket."
    return heat(title, SECONDS, expression, repeat="variant", description=text)


def throughput() -> list[Panel]:
    """Requests and observations per second."""
    return [
        lines(
            title,
            RATE,
            Query(recorded(f"variant:{name}:rate1m"), "{{variant}}"),
            description=text,
        )
        for title, name, text in (
            ("Requests per second", "slimq_requests", "Successful or not."),
            (
                "Observations per second",
                "slimq_observations",
                "Answered observations; a request may have many.",
            ),
        )
    ]


def errors() -> list[Panel]:
    """The share of requests that ended in an error, and the codes."""
    codes = f"{rate('slimq_errors_total', 'variant, code')} > 0"
    return [
        lines(
            "Errors, share of requests",
            SHARE,
            Query(recorded("variant:slimq_errors:ratio1m"), "{{variant}}"),
            description="Server-side and client errors; see the codes in Errors per second.",
        ),
        lines("Errors per second", RATE, Query(codes, "{{variant}} {{code}}"), description=WHOSE),
    ]


def stages() -> Panel:
    """The mean time of a request by stage."""
    queries = []
    for stage in STAGES:
        totals = (
            f"sum(rate(slimq_{stage}_seconds_{part}{{{CHOSEN}}}[$__rate_interval]))"
            for part in ("sum", "count")
        )
        queries.append(Query(" / ".join(totals), stage))
    title = "Mean time by stage, $variant"
    text = "Over successful requests. The total also includes the arrival of the body and waiting "
    text += "for the event loop."
    return lines(
        title, SECONDS, *queries, width=24, stacked=True, repeat="variant", description=text
    )


def batches() -> list[Panel]:
    """Batch sizes, and the reasons for dispatching batches."""
    size = per("slimq_batch_observations_sum", "slimq_batch_observations_count")
    reasons = rate("slimq_batches_total", "variant, reason")
    grown = "Batches grow with a variant's traffic, and so does the time in its model."
    why = "inline: in the event loop; idle: to an idle thread; freed: to a thread that just became "
    why += "free; full: the maximum batch size was reached."
    return [
        lines("Observations per batch", NUMBER, Query(size, "{{variant}}"), description=grown),
        lines(
            "Batches per second",
            RATE,
            Query(reasons, "{{variant}} {{reason}}"),
            description=why,
        ),
    ]


def behaviour() -> list[Panel]:
    """Whether variants act alike: live agreement with the shadow, and action shares."""
    rule = "variant:slimq_shadow_agreement:ratio10m"
    agreement = f'{rule}{{{CHOSEN}}} or {rule}{{policy="$policy",shadow=~"$variant"}}'
    actions = (
        f"{rate('slimq_actions_total', 'variant, action')} / on (variant) group_left () "
        f"{rate('slimq_actions_total', 'variant')}"
    )
    shadow = "Share of observations for which the policy's shadow chose the same action, over ten "
    shadow += "minutes. Set a shadow with `slimq policies route POLICY --shadow VARIANT`."
    acts = "Shares of the greedy actions. Compare variants only if they see the same play."
    return [
        lines(
            "Agreement on live traffic",
            SHARE,
            Query(agreement, "{{shadow}} with {{variant}}"),
            description=shadow,
        ),
        lines("Actions", SHARE, Query(actions, "{{variant}} {{action}}"), description=acts),
    ]


def memory() -> Panel:
    """Memory of each variant, averaged over the processes that have loaded it."""
    taken = f"sum by (variant) (slimq_variant_memory_bytes{{{CHOSEN}}})"
    processes = f"clamp_min(sum by (variant) (slimq_variant_loaded{{{CHOSEN}}}), 1)"
    text = "Mean growth of a process when it loaded the variant; 0 if no process has it loaded."
    query = Query(f"{taken} / {processes}", "{{variant}}")
    return lines("Memory per process", BYTES, query, description=text)
