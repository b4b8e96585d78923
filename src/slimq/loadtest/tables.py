"""Renders a report as text for a terminal or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from slimq.core.text_tables import markdown_table, text_table
from slimq.loadtest.analysis import Difference
from slimq.loadtest.plan import Mode
from slimq.loadtest.report import Report, Summary

MISSING = "–"
TITLES: dict[str, str] = {
    "throughput": "requests/s",
    "p10": "p10",
    "p50": "p50",
    "p99": "p99",
    "processor": "processor time",
}
SHOWN = (0.1, 0.5, 0.9, 0.99, 0.999)
ENDINGS = {
    "p99": "the p99 was above the target",
    "dropped": "requests were dropped",
    "failed": "requests failed",
    "behind": "the service fell behind the rate",
    "cap": "the maximum rate was sustained",
    None: "it was interrupted",
}

BOUNDS = {"": "", ">=": "≥ ", "<=": "≤ "}

Table = list[list[str]]


def render(report: Report, *, markdown: bool) -> str:
    """Renders the whole report, tables and sentences, with a final newline."""
    parts = [_head(report, markdown=markdown)]
    for title, table in sections(report):
        parts.append(f"### {title}" if markdown else title)
        parts.append(markdown_table(table) if markdown else text_table(table))
    verdict = verdicts(report)
    if verdict:
        parts.append("\n".join(f"- {line}" for line in verdict))
    if report.notes:
        parts.append("\n".join(f"- note: {note}" for note in report.notes))
    return "\n\n".join(parts) + "\n"


def sections(report: Report) -> list[tuple[str, Table]]:
    """All tables with rows, each with a title that describes its figures."""
    found = []
    for mode in report.plan.modes:
        if mode == "steps":
            tables = [capacities_table(report)]
        else:
            tables = [figures_table(report, mode), ratios_table(report, mode)]
        found += [
            (_title(report, mode, ratios=table is not tables[0]), table)
            for table in tables
            if len(table) > 1
        ]
    return found


def figures_table(report: Report, mode: Mode) -> Table:
    """Throughput, latency and processor time of every variant in a closed or an open loop."""
    head = ["variant", "requests/s", *(f"p{100 * q:g}, ms" for q in SHOWN), "max, ms"]
    head += ["processor time, ms", "requests", "failed", "dropped"]
    return [head, *(_figures(summary) for summary in report.summaries if summary.mode == mode)]


def ratios_table(report: Report, mode: Mode) -> Table:
    """Ratio to the baseline, interval and verdict of every comparison."""
    head = ["variant", "statistic", "ratio", "interval", "rounds", "verdict"]
    rows = [_ratio(difference) for difference in report.differences if difference.mode == mode]
    return [head, *rows]


def capacities_table(report: Report) -> Table:
    """The rate that each variant sustained."""
    head = ["variant", "sustained, requests/s", "in each sweep", "× baseline", "ended because"]
    rows = []
    for capacity in report.capacities:
        ratio = MISSING
        if capacity.ratio is not None and capacity.low is not None and capacity.high is not None:
            bound = BOUNDS[capacity.bound]
            ratio = f"{bound}{capacity.ratio:.2f} ({capacity.low:.2f} to {capacity.high:.2f})"
        rates = ", ".join(f"{rate:,.0f}" for rate in capacity.rates)
        rate = f"{BOUNDS['>=' if capacity.capped else '']}{capacity.rate:,.0f}"
        rows.append([capacity.label, rate, rates, ratio, ENDINGS[capacity.ended]])
    return [head, *rows]


def verdicts(report: Report) -> list[str]:
    """One sentence per variant: which differences exceed the noise, and which were not tested."""
    sentences = []
    for subject in report.plan.subjects:
        found = [d for d in report.differences if d.label == subject.label]
        if not found:
            continue
        if report.plan.order == "alone":
            reason = "variants were measured one at a time, so drift may look like a difference"
            sentences.append(f"{subject.label}: not compared: {reason}")
            continue
        parts = [_describe_real(difference) for difference in found if difference.real]
        if not parts and any(difference.real is False for difference in found):
            parts = ["no difference exceeds the noise"]
        parts += _describe_untested(found)
        sentences.append(f"{subject.label} against {report.plan.baseline}: {'; '.join(parts)}")
    return sentences


def judge(difference: Difference) -> str:
    """`better`, `worse`, `within the noise`, `not tested` or `not judged: …`."""
    if difference.unjudged is not None:
        return f"not judged: {difference.unjudged}"
    if difference.real is None:
        return "not tested"
    if not difference.real:
        return "within the noise"
    more_is_better = difference.statistic == "throughput"
    return "better" if (difference.ratio > 1) == more_is_better else "worse"


def describe(report: Report) -> str:
    """When the test ran, how it ended, and what was sent."""
    plan = report.plan
    return (
        f"{report.started}, {report.seconds:.0f} s, {report.ended}; {report.observations}; "
        f"{plan.batch} observation{'s' if plan.batch > 1 else ''} per request; "
        f"baseline {plan.baseline}; seed {plan.seed}"
    )


def _head(report: Report, *, markdown: bool) -> str:
    title = f"{report.policy} at {report.url}"
    return "\n".join([*([f"## {title}", ""] if markdown else [title]), describe(report)])


def _title(report: Report, mode: Mode, *, ratios: bool) -> str:
    plan = report.plan
    if ratios:
        each = report.error_rate / max(1, plan.comparisons)
        return f"Ratio to {plan.baseline}, {mode} loop, with {1 - each:.3%} confidence interval"
    if mode == "closed":
        rounds = _rounds(report, mode, plan.seconds)
        return f"Closed loop: {plan.connections} connections, always busy, {rounds}"
    if mode == "open":
        rate = next(s.rate for s in report.summaries if s.mode == mode) or 0.0
        return f"Open loop: {rate:g} requests/s, {_rounds(report, mode, plan.open_seconds(rate))}"
    return (
        f"Steps: the highest rate with a p99 of at most {plan.p99_us / 1000:g} ms, "
        f"{plan.sweeps} sweeps, blocks of at least {plan.step_seconds:g} s"
    )


def _rounds(report: Report, mode: Mode, seconds: float) -> str:
    plan = report.plan
    order = "interleaved" if plan.order == "interleaved" else "one variant at a time"
    rounds = len({sample.number for sample in report.samples if sample.mode == mode})
    planned = "" if rounds == plan.rounds else f" of {plan.rounds}"
    return f"{rounds}{planned} rounds of {seconds:g} s, {order}"


def _figures(summary: Summary) -> list[str]:
    return [
        summary.label,
        f"{summary.throughput:,.0f}",
        *(_milliseconds(summary.quantiles_us.get(q)) for q in SHOWN),
        _milliseconds(summary.max_us),
        _milliseconds(summary.processor_us),
        f"{summary.requests:,}",
        f"{sum(summary.failed.values()):,}",
        f"{summary.dropped:,}",
    ]


def _ratio(difference: Difference) -> list[str]:
    interval = MISSING
    if difference.low is not None and difference.high is not None:
        interval = f"{difference.low:.3f} to {difference.high:.3f}"
    return [
        difference.label,
        TITLES[difference.statistic],
        f"{difference.ratio:.3f}",
        interval,
        str(difference.rounds),
        judge(difference),
    ]


def _describe_real(difference: Difference) -> str:
    percent = abs(difference.ratio - 1)
    direction = "higher" if difference.ratio > 1 else "lower"
    where = f"{difference.mode} loop"
    name = TITLES[difference.statistic]
    return f"{name} {percent:.1%} {direction} in the {where} ({judge(difference)})"


def _describe_untested(found: Sequence[Difference]) -> list[str]:
    """Comparisons without a verdict, by mode and reason; names are omitted if all of a mode."""
    reasons: dict[tuple[Mode, str], list[Difference]] = {}
    for difference in found:
        if difference.real is None:
            verb = "judged" if difference.unjudged else "compared"
            rounds = f"{difference.rounds} round{'s' if difference.rounds > 1 else ''}"
            why = f"{{}}not {verb} in the {difference.mode} loop: {difference.unjudged or rounds}"
            reasons.setdefault((difference.mode, why), []).append(difference)
    sentences = []
    for (mode, why), untested in reasons.items():
        whole = len(untested) == sum(difference.mode == mode for difference in found)
        names = "" if whole else f"{', '.join(TITLES[d.statistic] for d in untested)} "
        sentences.append(why.format(names))
    return sentences


def _milliseconds(microseconds: float | None) -> str:
    return MISSING if microseconds is None else f"{microseconds / 1000:.3g}"
