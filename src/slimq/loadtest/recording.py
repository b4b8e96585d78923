"""Measurements: a sample per block, and histograms over all blocks of a kind.

Histograms are HDR histograms (Tene; hdrhistogram.org): three digits from a microsecond to ten
minutes, in some 170 kB of memory and a few in a file, and they can be added exactly. Quantiles over
all blocks are taken from them, since means of the blocks' quantiles are not quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram

from slimq.loadtest.driver import BlockResult
from slimq.loadtest.plan import Mode

MAX_US = 600_000_000
DIGITS = 3
TICK_SECONDS = 0.01
"""Resolution of the kernel's processor time."""
QUANTILES = (0.1, 0.5, 0.9, 0.99, 0.999)

Key = tuple[Mode, str, float | None]
"""Mode, label, and for `steps` the rate."""


@dataclass(frozen=True)
class Sample:
    """Figures of one block.

    Attributes:
        mode: load mode.
        number: index of the round or sweep, from 0.
        label: label of the variant.
        rate: requests per second that were due; None in a closed loop.
        seconds: length of the measured part.
        throughput: answered requests per second.
        pace: answers per second between the first and the last of the block; None with fewer than
            two.
        sent: requests sent.
        answered: requests answered with status 200.
        failed: failed requests, by status or reason.
        dropped: requests due and never sent.
        mean_us: mean latency; None, like the quantiles, if nothing was answered.
        p10_us: 10th percentile of the latency.
        p50_us: median latency.
        p99_us: 99th percentile of the latency.
        processor_us: the service's processor time per answered request, with at least half a tick
            per block; None if unknown.
        late_us: 99th percentile of the delay with which the generator noticed due requests; None in
            a closed loop.
        generator: share of time in which the generator was busy.
    """

    mode: Mode
    number: int
    label: str
    rate: float | None
    seconds: float
    throughput: float
    pace: float | None
    sent: int
    answered: int
    failed: dict[str, int]
    dropped: int
    mean_us: float | None
    p10_us: float | None
    p50_us: float | None
    p99_us: float | None
    processor_us: float | None
    late_us: float | None
    generator: float

    def statistic(self, name: str) -> float | None:
        """The value to compare; a throughput counts at least half a request."""
        values = {
            "throughput": max(self.throughput, 0.5 / self.seconds),
            "p10": self.p10_us,
            "p50": self.p50_us,
            "p99": self.p99_us,
            "processor": self.processor_us,
        }
        return values[name]

    @property
    def lost(self) -> int:
        """Requests not answered with status 200."""
        return self.dropped + sum(self.failed.values())


@dataclass
class Recording:
    """Everything measured so far; can be read at any time.

    Attributes:
        samples: samples in the order in which they were taken.
        histograms: latency histograms, in microseconds.
        endings: what ended each completed sweep, by label and number.
        notes: deviations from the plan.
    """

    samples: list[Sample] = field(default_factory=list)
    histograms: dict[Key, HdrHistogram] = field(default_factory=dict)
    endings: dict[tuple[str, int], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        mode: Mode,
        number: int,
        label: str,
        rate: float | None,
        result: BlockResult,
        processor_seconds: float | None,
    ) -> Sample:
        """Adds a block's result; returns its sample."""
        latencies = np.frombuffer(result.latencies, np.float64) * 1e6
        key = (mode, label, rate if mode == "steps" else None)
        if key not in self.histograms:
            self.histograms[key] = make_histogram()
        record(self.histograms[key], latencies)
        p10, p50, p99 = _quantiles(latencies)
        sample = Sample(
            mode=mode,
            number=number,
            label=label,
            rate=rate,
            seconds=result.seconds,
            throughput=result.completed / result.seconds,
            pace=result.pace,
            sent=result.sent,
            answered=result.answered,
            failed=dict(result.failed),
            dropped=result.dropped,
            mean_us=float(latencies.mean()) if len(latencies) else None,
            p10_us=p10,
            p50_us=p50,
            p99_us=p99,
            processor_us=(
                max(processor_seconds, TICK_SECONDS / 2) / result.answered * 1e6
                if processor_seconds is not None and result.answered
                else None
            ),
            late_us=(
                float(np.quantile(np.frombuffer(result.lateness, np.float64), 0.99)) * 1e6
                if len(result.lateness)
                else None
            ),
            generator=result.generator,
        )
        self.samples.append(sample)
        return sample

    def of(self, mode: Mode, label: str | None = None) -> list[Sample]:
        """The samples of a mode, optionally of one variant only."""
        return [
            sample
            for sample in self.samples
            if sample.mode == mode and label in (None, sample.label)
        ]


def make_histogram() -> HdrHistogram:
    """An empty latency histogram."""
    return HdrHistogram(1, MAX_US, DIGITS)


def record(histogram: HdrHistogram, microseconds: npt.NDArray[np.float64]) -> None:
    """Adds values, clipped to the histogram's range."""
    whole = np.clip(np.rint(microseconds), 1, MAX_US).astype(np.int64)
    for value, count in zip(*np.unique(whole, return_counts=True), strict=True):
        histogram.record_value(int(value), int(count))


def read_quantiles(
    histogram: HdrHistogram, quantiles: Sequence[float] = QUANTILES
) -> dict[float, int]:
    """Microseconds at each quantile; empty if nothing was recorded."""
    if not histogram.get_total_count():
        return {}
    return {q: int(histogram.get_value_at_percentile(100 * q)) for q in quantiles}


def _quantiles(latencies: npt.NDArray[np.float64]) -> tuple[float | None, ...]:
    if not len(latencies):
        return None, None, None
    return tuple(float(value) for value in np.quantile(latencies, (0.1, 0.5, 0.99)))
