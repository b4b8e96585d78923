"""Report of a load test: the values that are written as JSON.

Text, Markdown, HTML page and plots are rendered from this report alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from slimq.loadtest.analysis import (
    Difference,
    as_percent,
    find_differences,
    lost_share,
)
from slimq.loadtest.capacity import Capacity, find_capacities
from slimq.loadtest.plan import ERROR_RATE, Mode, Plan
from slimq.loadtest.recording import Recording, Sample, read_quantiles
from slimq.loadtest.session import MAX_BUSY

SCHEMA_VERSION = 2
MAX_LATE = 0.1
"""Lateness of the generator, as a share of the p99, above which the report adds a note."""


@dataclass(frozen=True)
class Summary:
    """All blocks of a variant in one mode; for `steps`, at one rate.

    Attributes:
        mode: load mode.
        label: label of the variant.
        rate: requests per second that were due; None in a closed loop.
        requests: requests whose latency was measured.
        throughput: answered requests per second, median of the blocks.
        throughput_low: throughput of the slowest block.
        throughput_high: throughput of the fastest block.
        quantiles_us: latency by quantile, over all blocks; empty if nothing was answered.
        max_us: maximum latency; None if nothing was answered.
        processor_us: the service's processor time per request, median of the blocks.
        failed: failed requests, by status or reason.
        dropped: requests that were due and never sent.
        histogram: HDR histogram in microseconds, in its libraries' exchange format (base64).
    """

    mode: Mode
    label: str
    rate: float | None
    requests: int
    throughput: float
    throughput_low: float
    throughput_high: float
    quantiles_us: dict[float, int]
    max_us: int | None
    processor_us: float | None
    failed: dict[str, int]
    dropped: int
    histogram: str


@dataclass(frozen=True)
class Report:
    """The complete report.

    Attributes:
        url: the service's address.
        policy: the policy's name.
        models: SHA-256 of each variant's stored model.
        observations: source of the observations.
        started: start time, in UTC.
        seconds: duration.
        ended: `complete`, or what ended the test early.
        error_rate: maximum probability of reporting any difference where there is none.
        plan: settings of the test.
        summaries: figures per mode and variant.
        differences: comparisons with the baseline.
        capacities: highest sustained rates.
        notes: remarks for the reader.
        samples: figures of every block.
    """

    url: str
    policy: str
    models: dict[str, str]
    observations: str
    started: str
    seconds: float
    ended: str
    plan: Plan
    summaries: tuple[Summary, ...]
    differences: tuple[Difference, ...]
    capacities: tuple[Capacity, ...]
    notes: tuple[str, ...]
    samples: tuple[Sample, ...]
    error_rate: float = ERROR_RATE
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class RunInfo:
    """Fields of a `Report` that are not measurements."""

    url: str
    policy: str
    models: Mapping[str, str]
    observations: str
    started: str
    seconds: float
    ended: str


def make_report(recording: Recording, plan: Plan, info: RunInfo) -> Report:
    """Makes the report of what has been recorded so far."""
    summaries = _summarize(recording, plan)
    return Report(
        url=info.url,
        policy=info.policy,
        models=dict(info.models),
        observations=info.observations,
        started=info.started,
        seconds=info.seconds,
        ended=info.ended,
        plan=plan,
        summaries=summaries,
        differences=tuple(find_differences(recording, plan)),
        capacities=tuple(find_capacities(recording, plan)),
        notes=(*recording.notes, *_find_notes(recording, plan)),
        samples=tuple(recording.samples),
    )


def _summarize(recording: Recording, plan: Plan) -> tuple[Summary, ...]:
    places = {subject.label: place for place, subject in enumerate(plan.subjects)}
    keys = sorted(
        recording.histograms,
        key=lambda key: (plan.modes.index(key[0]), key[2] or 0.0, places[key[1]]),
    )
    found = []
    for mode, label, rate in keys:
        samples = [
            sample for sample in recording.of(mode, label) if rate is None or sample.rate == rate
        ]
        histogram = recording.histograms[mode, label, rate]
        quantiles = read_quantiles(histogram)
        throughputs = [sample.throughput for sample in samples]
        processor = [s.processor_us for s in samples if s.processor_us is not None]
        failed: Counter[str] = Counter()
        for sample in samples:
            failed.update(sample.failed)
        found.append(
            Summary(
                mode=mode,
                label=label,
                rate=samples[0].rate,
                requests=histogram.get_total_count(),
                throughput=float(np.median(throughputs)),
                throughput_low=min(throughputs),
                throughput_high=max(throughputs),
                quantiles_us=quantiles,
                max_us=int(histogram.get_max_value()) if quantiles else None,
                processor_us=float(np.median(processor)) if processor else None,
                failed=dict(failed),
                dropped=sum(sample.dropped for sample in samples),
                histogram=histogram.encode().decode("ascii"),
            )
        )
    return tuple(found)


def _find_notes(recording: Recording, plan: Plan) -> list[str]:
    notes = []
    for mode in plan.modes:
        samples = recording.of(mode)
        busy = sum(sample.generator > MAX_BUSY for sample in samples)
        if busy:
            notes.append(
                f"{mode}: in {busy} of {len(samples)} blocks the load generator was busy for more "
                f"than {MAX_BUSY:.0%} of the time, and may have been the bottleneck"
            )
        late = sum(
            sample.late_us is not None
            and sample.p99_us is not None
            and sample.late_us > MAX_LATE * sample.p99_us
            for sample in samples
        )
        if late:
            notes.append(
                f"{mode}: in {late} of {len(samples)} blocks the load generator itself was late by "
                f"more than {MAX_LATE:.0%} of the p99; this delay is included in the latencies"
            )
        if mode != "steps":  # steps rise until requests are lost; the report says what ended them
            notes += _find_losses(recording, plan, mode)
    return notes


def _find_losses(recording: Recording, plan: Plan, mode: Mode) -> list[str]:
    """Notes each variant that lost requests: how many, and why."""
    notes = []
    for subject in plan.subjects:
        samples = recording.of(mode, subject.label)
        lost: Counter[str] = Counter()
        for sample in samples:
            lost.update(sample.failed)
            lost["dropped"] += sample.dropped
        if lost.total():
            reasons = ", ".join(f"{n:,} × {reason}" for reason, n in lost.most_common() if n)
            notes.append(
                f"{mode}: {subject.label} lost {as_percent(lost_share(samples))} of its requests "
                f"({reasons}); latencies cover only the others"
            )
    return notes
