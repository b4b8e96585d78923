"""The text of `/metrics`: series, metrics of the repository, and metrics of the processes.

With several workers series are summed over them, see `registry`. Metrics of processes are summed
over live workers, processor time over those that have ended too: a counter that falls would look
like one that was reset.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from slimq_service.metrics.registry import Registry
from slimq_service.metrics.worker_files import ENDED_FILE, RESTARTS_FILE, live_workers
from slimq_service.operations.repository_metrics import RepositoryMetrics

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CPU_SECONDS = "process_cpu_seconds"
NOT_SUMMED = "process_start_time_seconds"


class Exposition:
    """Encodes metrics for a scrape."""

    def __init__(
        self,
        registry: Registry,
        repository: RepositoryMetrics,
        folder: Path | None,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        """Reads nothing yet.

        Args:
            registry: the series.
            repository: the metrics of variants on disk.
            folder: of every worker's files, None if there is none.
            prepare: called before each scrape, to create series before they count.
        """
        self._prepare = prepare
        self._registry, self._repository = registry, repository
        self._lock = threading.Lock()
        self._processes = CollectorRegistry()
        if folder is not None:
            self._processes.register(_Processes(folder))
            return
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._processes)

    def encode(self) -> bytes:
        """The text; takes milliseconds, in any thread."""
        with self._lock:
            self._prepare()
            text = self._registry.render() + self._repository.render()
        return text.encode() + generate_latest(self._processes)


class _Processes(Collector):
    """Metrics of the live workers, summed, and the number of workers replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        alive = live_workers(self._folder)
        restarts = CounterMetricFamily("slimq_worker_restarts", "Workers replaced")
        restarts.add_metric([], _number(self._folder / RESTARTS_FILE))
        workers = GaugeMetricFamily("slimq_workers", "Live workers")
        workers.add_metric([], len(alive))
        yield from (restarts, workers)
        for metric in _sum(m for pid in alive.values() for m in _process_metrics(pid)):
            if metric.name == CPU_SECONDS:
                ended = _number(self._folder / ENDED_FILE)
                metric.samples = [s._replace(value=s.value + ended) for s in metric.samples]
            yield metric


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


def _number(path: Path) -> float:
    try:
        return float(path.read_text(encoding="ascii"))
    except OSError:
        return 0.0
