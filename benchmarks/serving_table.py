"""Ratios over the rounds, their intervals, and the tables that show them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from serving_cases import Aim, Case, Statistic
from serving_load import Load

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Measurement:
    """One load on one server.

    Attributes:
        load: wrk's figures.
        processor: the server's processor time in seconds, over all its threads and children.
        batch: processor seconds per observation in the best batch, for `echo`; otherwise 0.
        cores: number of cores on which both ran.
    """

    load: Load
    processor: float
    batch: float = 0.0
    cores: int = 1

    def value(self, statistic: Statistic) -> float:
        """The statistic, in seconds or per second."""
        values = {
            Statistic.PROCESSOR: self.processor / self.load.requests,
            Statistic.TIME: self.load.seconds / self.load.requests,
            Statistic.P50: self.load.p50,
            Statistic.P99: self.load.p99,
            Statistic.RATE: self.load.requests / self.load.seconds,
        }
        return values[statistic]

    def limit(self, generator: float) -> float:
        """Maximum requests per second of these cores, with the costs of an echo and the best batch.

        Args:
            generator: processor seconds of the load generator per request.
        """
        each = self.value(Statistic.PROCESSOR) + self.batch + generator
        return self.cores / each


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios of the rounds, with its interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """The measurements of a case, round by round."""

    case: Case
    measured: Sequence[Measurement]
    base: Sequence[Measurement]

    @property
    def ratios(self) -> list[float]:
        """The ratio of each round."""
        statistic = self.case.statistic
        pairs = zip(self.measured, self.base, strict=True)
        if statistic is Statistic.SHARE:
            return [
                ours.value(Statistic.RATE) / echo.limit(ours.load.processor / ours.load.requests)
                for ours, echo in pairs
            ]
        return [ours.value(statistic) / theirs.value(statistic) for ours, theirs in pairs]


def summarize(ratios: Sequence[float]) -> Ratio:
    """The median, and its 95 % confidence interval between two of the values.

    Independent values are below the true median with probability 1/2 each, so the interval from the
    k-th smallest to the k-th largest misses it with probability 2 P(B < k), B binomial (Conover
    1999, "Practical Nonparametric Statistics", section 3.2). With fewer than six values, the
    interval is from the smallest to the largest, with less confidence.
    """
    ordered = sorted(ratios)
    count, skipped = len(ordered), 0
    while skipped + 1 < count / 2 and _missing(count, skipped + 2) <= 1 - CONFIDENCE:
        skipped += 1
    return Ratio(statistics.median(ordered), ordered[skipped], ordered[count - 1 - skipped])


def _missing(count: int, k: int) -> float:
    """Probability that the interval between the k-th values from both ends misses the median."""
    return float(2 * sum(math.comb(count, i) for i in range(k)) / 2**count)


def verdict(aim: Aim, ratio: Ratio) -> str:
    """Describes whether a ratio meets an aim."""
    if aim.at_least:
        if ratio.median < aim.limit:
            return "short"
        missed = aim.target is not None and ratio.median < aim.target
        return f"holds, but not {aim.target:g}" if missed else "holds"
    reached = ratio.low if aim.by_interval else ratio.median
    if reached > aim.limit:
        return "short"
    missed = aim.target is not None and ratio.median > aim.target
    return f"holds, but not {aim.target:g}" if missed else "holds"


def describe(aim: Aim) -> str:
    """Formats an aim."""
    words = f"{'≥' if aim.at_least else '≤'} {aim.limit:g}"
    if aim.target is not None:
        words += f", better {aim.target:g}"
    return f"{words} in the interval" if aim.by_interval else words


def show_figures(results: Sequence[Result]) -> str:
    """A table of the medians over the rounds, one row for each side of each case."""
    head = ["case", "server", "requests/s", "p50, µs", "p99, µs", "processor, µs"]
    rows = []
    for result in results:
        for side, taken in (
            (result.case.measured, result.measured),
            (result.case.base, result.base),
        ):
            name = side.server + (f" + {side.meanwhile}" if side.meanwhile else "")
            if result.case.measured.request != result.case.base.request:
                name += f", {side.request.form}"
            rows.append([result.case.name, name, *_figures(taken)])
    return format_table(head, rows)


def _figures(taken: Sequence[Measurement]) -> list[str]:
    rate = statistics.median(one.value(Statistic.RATE) for one in taken)
    micro = [
        1e6 * statistics.median(one.value(kind) for one in taken)
        for kind in (Statistic.P50, Statistic.P99, Statistic.PROCESSOR)
    ]
    return [f"{rate:,.0f}", *(f"{value:,.1f}" for value in micro)]


def show_ratios(results: Sequence[Result]) -> str:
    """The table of the cases with their aims."""
    head = ["case", "compared", "statistic", "aim", "ratio", "low", "high", "verdict"]
    rows = []
    for result in results:
        case, ratio = result.case, summarize(result.ratios)
        numbers = [f"{value:.2f}" for value in (ratio.median, ratio.low, ratio.high)]
        rows.append(
            [
                case.name,
                compared(case),
                case.statistic.value,
                describe(case.aim),
                *numbers,
                verdict(case.aim, ratio),
            ]
        )
    return format_table(head, rows)


def compared(case: Case) -> str:
    """Describes numerator and denominator."""
    ours, theirs = case.measured, case.base
    if ours.request != theirs.request:
        return f"{ours.request.form} / {theirs.request.form}"
    if ours.server != theirs.server:
        return f"{ours.server} / {theirs.server}"
    return f"{ours.server}: {ours.meanwhile} / without"


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a Markdown table that is also readable as plain text."""
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )
