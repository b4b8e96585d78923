"""The dashboard *Variants compared*: what chosen variants of a policy keep, weigh and take."""

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
"""The matchers of the chosen variants, and of one of them in a panel that is repeated for each:
there too, Grafana inserts a regular expression, with the dot of a name escaped."""
BASELINE = 'max by (policy, variant) (slimq_variant_baseline{policy="$policy"}) == 1'
STAGES = ("parse", "queue", "inference", "response")


def build() -> dashboard.Dashboard:
    """The dashboard."""
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
    """The variants that got more requests than `$above` in the time that is shown.

    Where none did, or nothing has been scraped twice yet, all that the repository has.
    """
    of = 'policy="$policy"'
    busy = f"sum by (variant) (increase(slimq_requests_total{{{of}}}[$__range])) > $above"
    known = f"max by (variant) (last_over_time(slimq_variant_info{{{of}}}[$__range]))"
    return f"query_result({busy} or ({known} unless on () ({busy})))"


def fact(name: str) -> str:
    """What the repository says of each chosen variant, the same in every replica."""
    return f"max by (variant) ({name}{{{CHOSEN}}})"


def recorded(rule: str) -> str:
    """A recording rule's value for each chosen variant."""
    return f"sum by (variant) ({rule}{{{CHOSEN}}})"


def per(numerator: str, denominator: str) -> str:
    """The rate of one counter over that of another, for each chosen variant."""
    return " / ".join(rate(name, "variant") for name in (numerator, denominator))


def rate(name: str, by: str) -> str:
    """What a counter of the chosen variants grows by per second."""
    return f"sum by ({by}) (rate({name}{{{CHOSEN}}}[$__rate_interval]))"


def to_baseline(rule: str) -> str:
    """A recording rule's value for each chosen variant over that of the policy's full variant."""
    full = f'({rule}{{policy="$policy"}} and on (policy, variant) {BASELINE})'
    return f"sum by (variant) ({rule}{{{CHOSEN}}} / on (policy) group_left () {full})"


def keeps() -> Panel:
    """Return, bytes and p99 side by side."""
    full = f'slimq_variant_bytes{{policy="$policy"}} and on (policy, variant) {BASELINE}'
    columns = [
        Column("return", NUMBER, fact("slimq_variant_return"), 2),
        Column("95 %, low", NUMBER, fact("slimq_variant_return_low"), 2),
        Column("95 %, high", NUMBER, fact("slimq_variant_return_high"), 2),
        Column("agreement", SHARE, fact("slimq_variant_agreement_ratio"), 1),
        Column("bytes", BYTES, fact("slimq_variant_bytes")),
        Column("× smaller", RATIO, f"scalar(max({full})) / {fact('slimq_variant_bytes')}", 2),
        Column("p50", SECONDS, recorded("variant:slimq_http_request_seconds:p50_1m")),
        Column("p99", SECONDS, recorded("variant:slimq_http_request_seconds:p99_1m")),
        Column("mean / full", RATIO, to_baseline("variant:slimq_http_request_seconds:mean1m"), 2),
        Column("requests/s", RATE, recorded("variant:slimq_requests:rate1m")),
        Column("errors", SHARE, recorded("variant:slimq_errors:ratio1m")),
    ]
    text = "Return and agreement are those of the variant's report, over held-out episodes; times, "
    text += f"requests and errors those of the last minute. p50 and p99: {FROM_BUCKETS.lower()}"
    return by_variant("Return, bytes and latency", columns, text)


def quantile(number: int) -> Panel:
    """A quantile of the time of requests."""
    query = Query(recorded(f"variant:slimq_http_request_seconds:p{number}_1m"), "{{variant}}")
    text = f"Of the last minute's requests. {FROM_BUCKETS}"
    return lines(f"p{number}", SECONDS, query, width=8, logarithmic=True, description=text)


def mean_time() -> Panel:
    """The mean, which no bucket blurs."""
    query = Query(recorded("variant:slimq_http_request_seconds:mean1m"), "{{variant}}")
    text = "Of the last minute's requests, errors included, from the headers to the answer."
    return lines("Mean time", SECONDS, query, width=8, description=text)


def ratios() -> list[Panel]:
    """Mean and p99 over those of the full variant."""
    text = "To the policy's full variant, which must get requests too."
    blurred = f"{text} Each quantile is estimated within a bucket, and off by up to a factor of 2: "
    blurred += "this says little, where the ratio of means is exact."
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
    """A heat map for each variant."""
    name = f"slimq_http_request_seconds_bucket{{{CHOSEN}}}"
    expression = f"sum by (le) (increase({name}[$__rate_interval]))"
    title, text = "Time of requests, $variant", "How many requests fell into each bucket of time."
    return heat(title, SECONDS, expression, repeat="variant", description=text)


def throughput() -> list[Panel]:
    """Requests and observations."""
    return [
        lines(
            title,
            RATE,
            Query(recorded(f"variant:{name}:rate1m"), "{{variant}}"),
            description=text,
        )
        for title, name, text in (
            ("Requests per second", "slimq_requests", "Whatever their answer."),
            ("Observations per second", "slimq_observations", "Answered; a request may have many."),
        )
    ]


def errors() -> list[Panel]:
    """The share of requests that ended in an error, and what they were."""
    codes = f"{rate('slimq_errors_total', 'variant, code')} > 0"
    return [
        lines(
            "Errors, share of requests",
            SHARE,
            Query(recorded("variant:slimq_errors:ratio1m"), "{{variant}}"),
            description="Whoever's: wrong requests count too. The codes beside it say whose.",
        ),
        lines("Errors per second", RATE, Query(codes, "{{variant}} {{code}}"), description=WHOSE),
    ]


def stages() -> Panel:
    """Where the time of a request goes, on average."""
    queries = []
    for stage in STAGES:
        totals = (
            f"sum(rate(slimq_{stage}_seconds_{part}{{{CHOSEN}}}[$__rate_interval]))"
            for part in ("sum", "count")
        )
        queries.append(Query(" / ".join(totals), stage))
    title = "Mean time by stage, $variant"
    text = (
        "Of requests that were answered; the whole has the body's arrival and turns of the event "
    )
    text += "loop besides."
    return lines(
        title, SECONDS, *queries, width=24, stacked=True, repeat="variant", description=text
    )


def batches() -> list[Panel]:
    """How large batches are, and why they are dispatched."""
    size = per("slimq_batch_observations_sum", "slimq_batch_observations_count")
    reasons = rate("slimq_batches_total", "variant, reason")
    grown = "Batches grow with a variant's traffic, and the time in its model with them."
    why = "Dispatched inline in the event loop, to an idle or a just freed thread, or as full."
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
    """Whether variants act alike: live agreement with the shadow, and shares of actions."""
    rule = "variant:slimq_shadow_agreement:ratio10m"
    agreement = f'{rule}{{{CHOSEN}}} or {rule}{{policy="$policy",shadow=~"$variant"}}'
    actions = (
        f"{rate('slimq_actions_total', 'variant, action')} / on (variant) group_left () "
        f"{rate('slimq_actions_total', 'variant')}"
    )
    shadow = "How often the policy's shadow chose the action that was answered, in ten minutes. "
    shadow += "Empty without a shadow: `slimq policies route POLICY --shadow VARIANT` sets one."
    acts = "Shares of the greedy actions. Compare variants only where they see the same play."
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
    """What variants take in memory, on average over the processes that have them there."""
    taken = f"sum by (variant) (slimq_variant_memory_bytes{{{CHOSEN}}})"
    processes = f"clamp_min(sum by (variant) (slimq_variant_loaded{{{CHOSEN}}}), 1)"
    text = (
        "What a process grew by when it loaded the variant, on average; 0 where none has it loaded."
    )
    query = Query(f"{taken} / {processes}", "{{variant}}")
    return lines("Memory per process", BYTES, query, description=text)
