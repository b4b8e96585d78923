"""Measures the latency of one call, for all variants in one run of several processes.

There are two modes. Interleaved: every round calls all variants once in a shuffled order. Other
load on the machine then affects all of them alike, but they evict each other's weights from the
caches, which favours small models. Alone: one variant is loaded and called repeatedly. Both are
reported; ratios between variants are valid only within one run.

Memory layout makes a whole process faster or slower by a few per cent, and no number of calls
within it averages that out (Kalibera & Jones 2013, "Rigorous Benchmarking in Reasonable Time"). A
variant's time is therefore the median over processes of the per-process medians, and a ratio the
median of the per-process ratios.
"""

from __future__ import annotations

import multiprocessing
import platform
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from slimq.core.errors import CheckFailedError
from slimq.core.interrupts import interrupts_ignored
from slimq.core.observation import Observations
from slimq.core.qfunction import QFunction
from slimq.core.report import LatencyMeasurement, LatencyMode, LatencyReport

BATCHES = (1, 8, 32)
PROCESSES = 10
ITERATIONS = 50
THREADS = 1
"""Threads per session; set by `slimq.core.onnx_policy.make_session`."""

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


_Timed = dict[tuple[str, LatencyMode, int], _Timings]
"""Timings by variant, mode and batch size."""
_Arguments = tuple[Mapping[str, Load], Observations, Sequence[int], int]
"""Arguments of `_time` except the seed."""


def measure_latency(
    variants: Mapping[str, Load],
    observations: Observations,
    *,
    batches: Sequence[int] = BATCHES,
    iterations: int = ITERATIONS,
    processes: int = 0,
    on_process: Callable[[int], None] | None = None,
) -> dict[str, LatencyReport]:
    """Times every variant, first interleaved, then each alone.

    Args:
        variants: loaders by variant. Each is called once for the interleaved mode, and again for
            each batch size in the mode `alone`, so that the variant is alone in memory. They must
            be picklable if `processes` is set.
        observations: `(states, *shape)`, from real play; batches are taken from them in turn.
        batches: batch sizes.
        iterations: timed calls per variant, batch size and mode, in each process.
        processes: number of fresh processes, started one after another; 0 for the current one.
        on_process: called before each process starts, with its number, from 1.

    Returns:
        A report for each variant, all with the same `run_id`.

    Raises:
        CheckFailedError: a process died.
    """
    arguments = dict(variants), observations, tuple(batches), iterations
    if processes:
        runs = list(_in_processes(arguments, processes, on_process))
    else:
        runs = [_time(*arguments, _SHUFFLE_SEED)]
    run_id, names = uuid.uuid4().hex, list(variants)
    processor, version = processor_name(), _onnxruntime_version()
    modes: tuple[LatencyMode, ...] = ("interleaved", "alone")
    return {
        name: LatencyReport(
            run_id=run_id,
            processor=processor,
            threads=THREADS,
            processes=len(runs),
            onnxruntime=version,
            variants=names,
            measurements=[
                _summarize(mode, size, [run[name, mode, size] for run in runs])
                for mode in modes
                for size in batches
            ],
        )
        for name in names
    }


def latency_ratio(
    variant: LatencyReport | None, full: LatencyReport | None, mode: LatencyMode, batch: int
) -> float | None:
    """The speed-up of a variant's median call over the baseline's, median over processes.

    None if either was not measured, or not in the same run.
    """
    if variant is None or full is None or variant.run_id != full.run_id:
        return None
    ours, theirs = variant.find(mode, batch), full.find(mode, batch)
    if ours is None or theirs is None or not all(ours.processes_p50_us):
        return None
    pairs = zip(theirs.processes_p50_us, ours.processes_p50_us, strict=True)
    return float(np.median([their / our for their, our in pairs]))


def processor_name() -> str:
    """The processor's name according to the system."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine() or "unknown"


def _in_processes(
    arguments: _Arguments, processes: int, on_process: Callable[[int], None] | None
) -> Iterator[_Timed]:
    """Runs the processes one after another, as daemons that end with this process."""
    context = multiprocessing.get_context("spawn")
    for number in range(1, processes + 1):
        if on_process:
            on_process(number)
        receiver, sender = context.Pipe(duplex=False)
        values = sender, arguments, _SHUFFLE_SEED + number
        process = context.Process(target=_time_and_send, args=values, daemon=True)
        with interrupts_ignored():
            process.start()
        sender.close()
        try:
            outcome: _Timed | Exception = receiver.recv()
        except EOFError as error:
            problem = f"process {number} of {processes} died while it measured latency"
            raise CheckFailedError(problem) from error
        except BaseException:
            process.terminate()
            raise
        finally:
            receiver.close()
            process.join()
        if isinstance(outcome, Exception):
            raise outcome
        yield outcome


def _time_and_send(sender: Connection, arguments: _Arguments, seed: int) -> None:
    try:
        outcome: _Timed | Exception = _time(*arguments, seed)
    except Exception as error:  # re-raised in the parent process
        outcome = error
    sender.send(outcome)


def _time(
    variants: Mapping[str, Load],
    observations: Observations,
    batches: Sequence[int],
    iterations: int,
    seed: int,
) -> _Timed:
    timed: _Timed = {}
    order = np.random.default_rng(seed)
    loaded = {name: load() for name, load in variants.items()}
    for size in batches:
        for name, timings in _interleave(loaded, observations, size, iterations, order).items():
            timed[name, "interleaved", size] = timings
    loaded.clear()
    names = list(variants)
    for size in batches:
        for name in (names[position] for position in order.permutation(len(names))):
            alone = {name: variants[name]()}
            timings = _interleave(alone, observations, size, iterations, order)[name]
            timed[name, "alone", size] = timings
    return timed


def _interleave(
    loaded: Mapping[str, QFunction],
    observations: Observations,
    size: int,
    iterations: int,
    order: np.random.Generator,
) -> dict[str, _Timings]:
    timings = {name: _Timings() for name in loaded}
    batches = _batches(observations, size)
    for q_function in loaded.values():
        for index in range(_WARM_UP):
            q_function(batches[index % len(batches)])
    names = list(loaded)
    for index in range(iterations):
        batch = batches[index % len(batches)]
        for position in order.permutation(len(names)):
            timings[names[position]].call(loaded[names[position]], batch)
    return timings


def _summarize(mode: LatencyMode, batch: int, runs: Sequence[_Timings]) -> LatencyMeasurement:
    microseconds = [np.asarray(run.wall_ns) / 1e3 for run in runs]
    medians = [round(float(np.median(times)), 2) for times in microseconds]
    pooled = np.concatenate(microseconds)
    p95, p99 = np.percentile(pooled, [95, 99])
    return LatencyMeasurement(
        mode=mode,
        batch=batch,
        iterations=len(pooled),
        p50_us=round(float(np.median(medians)), 2),
        processes_p50_us=medians,
        p95_us=round(float(p95), 2),
        p99_us=round(float(p99), 2),
        processor_us=round(sum(run.processor_ns for run in runs) / len(pooled) / 1e3, 2),
    )


def _batches(observations: Observations, size: int) -> list[Observations]:
    """Builds at most 64 batches; states repeat if there are too few."""
    count = max(1, min(64, len(observations) // size))
    rows = np.arange(count * size) % len(observations)
    return [observations[rows[start : start + size]] for start in range(0, len(rows), size)]


def _onnxruntime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)
