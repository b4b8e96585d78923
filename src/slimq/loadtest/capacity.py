"""The highest rate that each variant held in the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slimq.loadtest.analysis import MAX_LOST_SHARE, lost_share
from slimq.loadtest.plan import Plan
from slimq.loadtest.rate_search import CAP
from slimq.loadtest.recording import Recording, Sample

MIN_PACE = 0.95
"""A service that answers at a lower share of the rate falls behind: its queue grows for as long as
the load lasts, and only the block's end keeps the p99 finite."""


@dataclass(frozen=True)
class Capacity:
    """The rate that a variant held, with its p99 within the target.

    Attributes:
        label: of the variant.
        rates: the highest of each sweep that came to its end, in requests per second, 0 where none
            was held; where none came to its end, the highest of the one that was cut short.
        rate: the middle of them.
        ratio: the middle of the sweeps' ratios to the baseline; None without one, and where both
            are bounds.
        low: the smallest of these ratios.
        high: the largest.
        ended: what ended the last sweep; `cap` where it still held and no more was tried, None
            where it was cut short.
        capped: whether more might have been held, in any sweep: the rate is a lower bound.
        bound: `>=` or `<=` where the ratio is only a bound, because one of the two rates is.
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
    """The highest rate of each variant whose p99 was within the target.

    A sweep in which either side held nothing has no ratio.
    """
    endings = {subject.label: _endings(recording, subject.label) for subject in plan.subjects}
    held = {
        label: _held_rates(recording.of("steps", label), over, plan.p99_us)
        for label, over in endings.items()
    }
    base, base_capped = held[plan.baseline], _is_capped(endings[plan.baseline])
    found = []
    for label, rates in held.items():
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


def why_not_held(sample: Sample, p99_us: float) -> str | None:
    """What a block of a constant rate fell short in; None where it held."""
    if lost_share([sample]) > MAX_LOST_SHARE:
        return "dropped" if sample.dropped >= sum(sample.failed.values()) else "failed"
    if sample.p99_us is None:
        return "failed"
    if sample.p99_us > p99_us:
        return "p99"
    behind = sample.rate and sample.pace and sample.pace < MIN_PACE * sample.rate
    return "behind" if behind else None


def _endings(recording: Recording, label: str) -> dict[int, str]:
    """What ended each sweep of a variant that is over."""
    return {number: why for (name, number), why in recording.endings.items() if name == label}


def _held_rates(
    samples: Sequence[Sample], over: Mapping[int, str], p99_us: float
) -> dict[int, float]:
    """The highest rate of each sweep that is over, or of the first where none is."""
    rates: dict[int, float] = {}
    for sample in samples:
        if sample.number in over or not over:
            held = sample.rate if why_not_held(sample, p99_us) is None else None
            rates[sample.number] = max(rates.get(sample.number, 0.0), held or 0.0)
    return rates


def _is_capped(endings: Mapping[int, str]) -> bool:
    """Whether the rate is a lower bound: a sweep still held at its top, or none is over."""
    return CAP in endings.values() or not endings
