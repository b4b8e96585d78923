"""What has been measured: a sample of every block, and histograms over all blocks of a kind.

Histograms are HDR histograms (Tene; hdrhistogram.org): every value to three digits from a
microsecond to minutes, in some 170 kilobytes of memory and few in a file, and they add up exactly.
Quantiles over a whole phase come from them. Means of the blocks' quantiles would be quantiles of
nothing.
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
"""In which the kernel counts processor time; less than half of one was not seen."""
QUANTILES = (0.1, 0.5, 0.9, 0.99, 0.999)

Key = tuple[Mode, str, float | None]
"""Mode, label, and in `steps` the rate."""


@dataclass(frozen=True)
class Sample:
    """One block.

    Attributes:
        mode: how the load was made.
        number: of the round or the sweep, from 0.
        label: of the variant.
        rate: requests per second that were due; None in a closed loop.
        seconds: of the part that counts.
        throughput: answered requests per second.
        pace: answers per second from the first to the last, of the whole block; None with fewer
            than two.
        sent: requests.
        answered: with status 200.
        failed: by status or reason.
        dropped: due and never sent.
        mean_us: of the latency; None, as the quantiles, where nothing was answered.
        p10_us: a quantile, as the next two.
        p50_us: as above.
        p99_us: as above.
        processor_us: the service's processor time per answered request, of half a tick in the
            block at least; None where it is unknown.
        late_us: 99 of 100 requests were noticed by the generator at most so long after they
            were due; None in a closed loop.
        generator: share of the time in which the generator was busy.
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
        """What is compared under this name: of the throughput, half a request at least."""
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
        """Requests without an answer of status 200."""
        return self.dropped + sum(self.failed.values())


@dataclass
class Recording:
    """Everything that a load test has measured so far; it can be read at any time.

    Attributes:
        samples: in the order in which they were taken.
        histograms: of microseconds.
        endings: of each sweep of the steps that is over, by label and number: what ended it.
        notes: what went otherwise than planned.
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
        """Takes what a block has seen."""
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
        """The samples of a mode, of one variant where a label is given."""
        return [
            sample
            for sample in self.samples
            if sample.mode == mode and label in (None, sample.label)
        ]


def make_histogram() -> HdrHistogram:
    """An empty one."""
    return HdrHistogram(1, MAX_US, DIGITS)


def record(histogram: HdrHistogram, microseconds: npt.NDArray[np.float64]) -> None:
    """Adds values, those of less than a microsecond as one, those beyond the last as the last."""
    whole = np.clip(np.rint(microseconds), 1, MAX_US).astype(np.int64)
    for value, count in zip(*np.unique(whole, return_counts=True), strict=True):
        histogram.record_value(int(value), int(count))


def read_quantiles(
    histogram: HdrHistogram, quantiles: Sequence[float] = QUANTILES
) -> dict[float, int]:
    """Microseconds at each quantile; empty where nothing was recorded."""
    if not histogram.get_total_count():
        return {}
    return {q: int(histogram.get_value_at_percentile(100 * q)) for q in quantiles}


def _quantiles(latencies: npt.NDArray[np.float64]) -> tuple[float | None, ...]:
    if not len(latencies):
        return None, None, None
    return tuple(float(value) for value in np.quantile(latencies, (0.1, 0.5, 0.99)))
