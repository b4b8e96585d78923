"""Highest rate that each variant sustained in the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slimq.loadtest.analysis import MAX_LOST_SHARE, lost_share
from slimq.loadtest.plan import Plan
from slimq.loadtest.rate_search import CAP
from slimq.loadtest.recording import Recording, Sample

MIN_PACE = 0.95
"""Minimum share of the rate at which a service must answer. Below it, the service falls behind: its
queue grows as long as the load lasts, and only the end of the block keeps the p99 finite."""


@dataclass(frozen=True)
class Capacity:
    """The rate that a variant sustained with its p99 within the target.

    Attributes:
        label: label of the variant.
        rates: highest rate of each completed sweep, in requests per second, 0 if none was
            sustained; if no sweep completed, that of the interrupted one.
        rate: median of `rates`.
        ratio: median of the sweeps' ratios to the baseline; None if there is none, or if both rates
            are bounds.
        low: smallest of these ratios.
        high: largest of these ratios.
        ended: what ended the last sweep; `cap` if the highest rate tried was sustained, None if the
            sweep was interrupted.
        capped: whether the rate is a lower bound, because a sweep was capped or interrupted.
        bound: `>=` or `<=` if the ratio is only a bound, because one of the two rates is.
    """

    label: str
    rates: tuple[float, ...]
    rate: float
    ratio: float | None
    low: float | None
    high: float | None
    ended: str | None
    capped: bool = False
    bound: str = ""


def find_capacities(recording: Recording, plan: Plan) -> list[Capacity]:
    """Finds the highest sustained rate of each variant.

    A sweep in which either side sustained nothing has no ratio.
    """
    endings = {subject.label: _endings(recording, subject.label) for subject in plan.subjects}
    sustained = {
        label: _sustained_rates(recording.of("steps", label), completed, plan.p99_us)
        for label, completed in endings.items()
    }
    base, base_capped = sustained[plan.baseline], _is_capped(endings[plan.baseline])
    found = []
    for label, rates in sustained.items():
        if not rates:
            continue
        capped = _is_capped(endings[label])
        ratios = [rate / base[n] for n, rate in rates.items() if rate and base.get(n)]
        if label == plan.baseline or (capped and base_capped):
            ratios = []
        capacity = Capacity(
            label,
            tuple(rates.values()),
            float(np.median(list(rates.values()))),
            float(np.median(ratios)) if ratios else None,
            min(ratios, default=None),
            max(ratios, default=None),
            endings[label].get(max(rates)),
            capped,
            ("<=" if base_capped else ">=") if ratios and (capped or base_capped) else "",
        )
        found.append(capacity)
    return found


def find_shortfall(sample: Sample, p99_us: float) -> str | None:
    """The reason why a block's rate was not sustained; None if it was."""
    if lost_share([sample]) > MAX_LOST_SHARE:
        return "dropped" if sample.dropped >= sum(sample.failed.values()) else "failed"
    if sample.p99_us is None:
        return "failed"
    if sample.p99_us > p99_us:
        return "p99"
    behind = sample.rate and sample.pace and sample.pace < MIN_PACE * sample.rate
    return "behind" if behind else None


def _endings(recording: Recording, label: str) -> dict[int, str]:
    """The endings of the completed sweeps of a variant."""
    return {number: why for (name, number), why in recording.endings.items() if name == label}


def _sustained_rates(
    samples: Sequence[Sample], completed: Mapping[int, str], p99_us: float
) -> dict[int, float]:
    """The highest sustained rate of each completed sweep, or of the first if none completed."""
    rates: dict[int, float] = {}
    for sample in samples:
        if sample.number in completed or not completed:
            sustained = sample.rate if find_shortfall(sample, p99_us) is None else None
            rates[sample.number] = max(rates.get(sample.number, 0.0), sustained or 0.0)
    return rates


def _is_capped(endings: Mapping[int, str]) -> bool:
    """Whether the rate is a lower bound: a sweep was capped, or none completed."""
    return CAP in endings.values() or not endings
