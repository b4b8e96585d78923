"""How long one call takes, for all variants in one run.

Interleaved, every round calls all variants once in a shuffled order: what else the machine does
meets all of them alike, but they evict each other's weights from the caches, which flatters small
models. Alone, one variant is loaded and called on end. Both are reported; a ratio between variants
holds only within one run.
"""

from __future__ import annotations

import platform
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from slimq.core.observation import Observations
from slimq.core.qfunction import QFunction
from slimq.core.report import LatencyMeasurement, LatencyMode, LatencyReport

BATCHES = (1, 8, 32)
ITERATIONS = 500
THREADS = 1
"""Of a session; `slimq.core.onnx_policy.make_session` sets it."""

_WARM_UP = 20
_SHUFFLE_SEED = 11

Load = Callable[[], QFunction]


@dataclass
class _Timings:
    wall_ns: list[int] = field(default_factory=list)
    processor_ns: int = 0

    def call(self, q_function: QFunction, batch: Observations) -> None:
        processor = time.process_time_ns()
        start = time.perf_counter_ns()
        q_function(batch)
        end = time.perf_counter_ns()
        self.processor_ns += time.process_time_ns() - processor
        self.wall_ns.append(end - start)

    def summary(self, mode: LatencyMode, batch: int) -> LatencyMeasurement:
        p50, p95, p99 = np.percentile(np.asarray(self.wall_ns) / 1e3, [50, 95, 99])
        count = len(self.wall_ns)
        return LatencyMeasurement(
            mode=mode,
            batch=batch,
            iterations=count,
            p50_us=round(float(p50), 2),
            p95_us=round(float(p95), 2),
            p99_us=round(float(p99), 2),
            processor_us=round(self.processor_ns / count / 1e3, 2),
        )


def measure_latency(
    variants: Mapping[str, Load],
    observations: Observations,
    *,
    batches: Sequence[int] = BATCHES,
    iterations: int = ITERATIONS,
    on_batch: Callable[[LatencyMode, int], None] | None = None,
) -> dict[str, LatencyReport]:
    """Times every variant, first all in turn, then each alone.

    Args:
        variants: how to load each; called once before all are timed in turn, and again for each
            batch size that is timed alone, so that alone means alone in memory.
        observations: `(states, *shape)`, real ones; batches are taken from them in turn.
        batches: batch sizes.
        iterations: timed calls per variant, batch size and mode.
        on_batch: called before each mode and batch size, for progress.

    Returns:
        For each variant a report of the same `run_id`.
    """
    measured: dict[str, list[LatencyMeasurement]] = {name: [] for name in variants}
    loaded = {name: load() for name, load in variants.items()}
    for size in batches:
        if on_batch:
            on_batch("interleaved", size)
        for name, timings in _interleave(loaded, observations, size, iterations).items():
            measured[name].append(timings.summary("interleaved", size))
    loaded.clear()
    for size in batches:
        if on_batch:
            on_batch("alone", size)
        for name, load in variants.items():
            timings = _interleave({name: load()}, observations, size, iterations)[name]
            measured[name].append(timings.summary("alone", size))
    run_id, names = uuid.uuid4().hex, list(variants)
    processor, version = processor_name(), _onnxruntime_version()
    return {
        name: LatencyReport(
            run_id=run_id,
            processor=processor,
            threads=THREADS,
            onnxruntime=version,
            variants=names,
            measurements=measurements,
        )
        for name, measurements in measured.items()
    }


def latency_ratio(
    variant: LatencyReport | None, full: LatencyReport | None, mode: LatencyMode, batch: int
) -> float | None:
    """How many times faster than the baseline a variant's median call is.

    None where either was not measured, or not in the same run.
    """
    if variant is None or full is None or variant.run_id != full.run_id:
        return None
    ours, theirs = variant.find(mode, batch), full.find(mode, batch)
    if ours is None or theirs is None or ours.p50_us == 0:
        return None
    return theirs.p50_us / ours.p50_us


def processor_name() -> str:
    """The processor as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine() or "unknown"


def _interleave(
    loaded: Mapping[str, QFunction], observations: Observations, size: int, iterations: int
) -> dict[str, _Timings]:
    timings = {name: _Timings() for name in loaded}
    batches = _batches(observations, size)
    for q_function in loaded.values():
        for index in range(_WARM_UP):
            q_function(batches[index % len(batches)])
    names, order = list(loaded), np.random.default_rng(_SHUFFLE_SEED)
    for index in range(iterations):
        batch = batches[index % len(batches)]
        for position in order.permutation(len(names)):
            timings[names[position]].call(loaded[names[position]], batch)
    return timings


def _batches(observations: Observations, size: int) -> list[Observations]:
    """At most 64 batches; states repeat where there are too few."""
    count = max(1, min(64, len(observations) // size))
    rows = np.arange(count * size) % len(observations)
    return [observations[rows[start : start + size]] for start in range(0, len(rows), size)]


def _onnxruntime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)
