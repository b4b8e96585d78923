"""The text of `/metrics`: of this process, or summed over every worker's.

With several workers, prometheus_client keeps the values of each process in files of a folder that
`PROMETHEUS_MULTIPROC_DIR` names before the process begins. Counters of workers that have died stay
in the sums; gauges of theirs are removed by the supervisor. Collectors of the process itself have
no such files: they are asked for each worker that lives.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
RESTARTS_FILE = "restarts"
"""In the folder: how many workers the supervisor has replaced."""
WORKERS_FILE = "workers"
"""In the folder: process ids of the workers that live, with spaces between them."""
NOT_SUMMED = "process_start_time_seconds"


class Exposition:
    """Encodes metrics for a scrape."""

    def __init__(self, registry: CollectorRegistry, folder: Path | None) -> None:
        """Reads nothing yet.

        Args:
            registry: of this process.
            folder: of every worker's values, None where there is one process.
        """
        self._registry, self._folder = registry, folder

    def encode(self, accept: str) -> tuple[bytes, str]:
        """The text and its media type, for an Accept header; takes milliseconds."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry if self._folder is None else _gather(self._folder)), media_type


def folder_of_workers() -> Path | None:
    """Where the values of several workers are, None where there is one process."""
    folder = os.environ.get(VARIABLE)
    return Path(folder) if folder else None


def _gather(folder: Path) -> CollectorRegistry:
    """A fresh registry of the sums over all workers."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    registry.register(_Processes(folder))
    return registry


class _Processes(Collector):
    """Sums of what is known of the processes that live, and how many were replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        alive = _read(self._folder / WORKERS_FILE).split()
        restarts = CounterMetricFamily(
            "slimq_worker_restarts", "Workers that died and were replaced"
        )
        restarts.add_metric([], float(_read(self._folder / RESTARTS_FILE) or 0))
        workers = GaugeMetricFamily("slimq_workers", "Processes that answer requests")
        workers.add_metric([], len(alive))
        yield from (restarts, workers)
        yield from _sum(metric for pid in alive for metric in _process_metrics(pid))


def _process_metrics(pid: str) -> Iterable[Metric]:
    return ProcessCollector(pid=lambda: pid, registry=None).collect()


def _sum(metrics: Iterable[Metric]) -> Iterable[Metric]:
    sums: dict[str, Metric] = {}
    for metric in metrics:
        if metric.name == NOT_SUMMED:
            continue
        if metric.name not in sums:
            sums[metric.name] = metric
            continue
        old = sums[metric.name].samples
        values = {sample.name: sample.value for sample in metric.samples}
        sums[metric.name].samples = [s._replace(value=s.value + values[s.name]) for s in old]
    return sums.values()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
