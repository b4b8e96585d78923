"""What a load test has found, as values: the document that is written as JSON.

Text, Markdown, page and plots are made of it and of nothing else.
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
"""A generator that is late by more than this share of the p99 is named."""


@dataclass(frozen=True)
class Summary:
    """All blocks of a variant in one mode, and in `steps` at one rate.

    Attributes:
        mode: how the load was made.
        label: of the variant.
        rate: requests per second that were due; None in a closed loop.
        requests: those whose latency counts.
        throughput: answered requests per second, the middle of the blocks.
        throughput_low: of the slowest block.
        throughput_high: of the fastest block.
        quantiles_us: latency by quantile, of all blocks together; empty without an answer.
        max_us: the longest; None without an answer.
        processor_us: the service's processor time per request, the middle of the blocks.
        failed: requests, by status or reason.
        dropped: requests that were due and never sent.
        histogram: the HDR histogram of microseconds, as its libraries exchange it (base64).
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
    """The whole of it.

    Attributes:
        url: of the service.
        policy: its name.
        models: SHA-256 of the stored model of each variant.
        observations: where they came from.
        started: when, in UTC.
        seconds: how long it took.
        ended: `complete`, or what ended it before.
        error_rate: probability that anything is called real where nothing is.
        plan: what was asked for.
        summaries: per mode and variant.
        differences: to the baseline.
        capacities: rates held within the p99.
        notes: what a reader must know.
        samples: every block.
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
class Circumstances:
    """What a report says beside its figures; the fields are those of `Report`."""

    url: str
    policy: str
    models: Mapping[str, str]
    observations: str
    started: str
    seconds: float
    ended: str


def make_report(recording: Recording, plan: Plan, circumstances: Circumstances) -> Report:
    """The report of what has been recorded so far."""
    summaries = _summarise(recording, plan)
    return Report(
        url=circumstances.url,
        policy=circumstances.policy,
        models=dict(circumstances.models),
        observations=circumstances.observations,
        started=circumstances.started,
        seconds=circumstances.seconds,
        ended=circumstances.ended,
        plan=plan,
        summaries=summaries,
        differences=tuple(find_differences(recording, plan)),
        capacities=tuple(find_capacities(recording, plan)),
        notes=(*recording.notes, *_find_notes(recording, plan)),
        samples=tuple(recording.samples),
    )


def _summarise(recording: Recording, plan: Plan) -> tuple[Summary, ...]:
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
                f"than {MAX_BUSY:.0%} of the time, and may have been what was slow"
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
                f"more than {MAX_LATE:.0%} of the p99, which is part of the latencies"
            )
        if mode != "steps":  # these climb until requests are lost: what ended them says so
            notes += _find_losses(recording, plan, mode)
    return notes


def _find_losses(recording: Recording, plan: Plan, mode: Mode) -> list[str]:
    """Of each variant that lost requests: how many, and why."""
    notes = []
    for subject in plan.subjects:
        samples = recording.of(mode, subject.label)
        lost: Counter[str] = Counter()
        for sample in samples:
            lost.update(sample.failed)
            lost["due and never sent"] += sample.dropped
        if lost.total():
            reasons = ", ".join(f"{n:,} × {reason}" for reason, n in lost.most_common() if n)
            notes.append(
                f"{mode}: {subject.label} lost {as_percent(lost_share(samples))} of its requests "
                f"({reasons}); latencies are of the others"
            )
    return notes
