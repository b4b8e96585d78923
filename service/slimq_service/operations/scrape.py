"""The text of `/metrics`: series, metrics of the repository, and metrics of the processes.

With several workers, series are summed over them (see `registry`), and so are metrics of processes,
over the live workers. Processor time includes workers that have exited: a counter that decreases
would look as if it had been reset.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

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

from slimq_service.http.worker_table import State, WorkerTable
from slimq_service.metrics.registry import Registry
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
        table: WorkerTable | None,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        """Reads nothing yet.

        Args:
            registry: the series.
            repository: the metrics of variants on disk.
            table: the states of all workers, None for a single process.
            prepare: called before each scrape, to create series in time for it.
        """
        self._prepare = prepare
        self._registry, self._repository = registry, repository
        self._lock = threading.Lock()
        self._processes = CollectorRegistry()
        if table is not None:
            self._processes.register(_Processes(table))
            return
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._processes)

    def encode(self) -> bytes:
        """The text; takes milliseconds, and may be called in any thread."""
        with self._lock:
            self._prepare()
            text = self._registry.render() + self._repository.render()
        return text.encode() + generate_latest(self._processes)


class _Processes(Collector):
    """Sums of the live workers' metrics, and the numbers of live and of replaced workers."""

    def __init__(self, table: WorkerTable) -> None:
        self._table = table

    def collect(self) -> Iterator[Metric]:
        table = self._table
        alive = list(table.alive())
        counters = {
            "slimq_worker_restarts": ("Workers replaced", table.restarts),
            "slimq_worker_stalls": (
                "Workers killed because they no longer responded",
                table.stalls,
            ),
        }
        for name, (description, value) in counters.items():
            counter = CounterMetricFamily(name, description)
            counter.add_metric([], value)
            yield counter
        gauges = {
            "slimq_workers": ("Workers that answer requests", State.ANSWERING),
            "slimq_workers_stalled": ("Workers that do not respond at present", State.STALLED),
        }
        for name, (description, state) in gauges.items():
            gauge = GaugeMetricFamily(name, description)
            gauge.add_metric([], sum(worker.state is state for worker in alive))
            yield gauge
        for metric in _sum(m for worker in alive for m in _process_metrics(str(worker.pid))):
            if metric.name == CPU_SECONDS:
                exited = table.exited_seconds
                metric.samples = [s._replace(value=s.value + exited) for s in metric.samples]
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
