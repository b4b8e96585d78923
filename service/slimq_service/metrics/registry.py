"""Counters, gauges and histograms that cost a request next to nothing.

prometheus_client takes a lock for every number that changes, does even more with several workers,
and holds the GIL for 140 ms to format 60 variants. Here a number is one slot (a double in memory)
that only the event loop writes, and the constant parts of the text's lines are cached.

With several workers, the slots of each are a file in a folder that all of them read. A worker that
replaces a dead one continues with its files, so that counters survive; gauges start at 0, and those
of dead and stalled workers are not counted. Series for which the folder has no space (or all of
them, if it cannot be written) are kept in memory: only the worker that holds them exposes them.

The text is Prometheus' exposition format 0.0.4.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from slimq_service.http.worker_table import State, WorkerTable
from slimq_service.metrics.instruments import Counter, Family, Gauge, Histogram, S, Values
from slimq_service.metrics.text_format import Plan
from slimq_service.metrics.worker_files import (
    LAYOUTS,
    MAX_VALUES_BYTES,
    OtherWorker,
    OwnFiles,
)

SeriesKey = tuple[str, tuple[str, ...]]
"""The name and label values of a series."""


class Registry:
    """Every series of a process, and the exposition of their totals over all workers."""

    def __init__(
        self, folder: Path | None = None, index: int = 0, table: WorkerTable | None = None
    ) -> None:
        """Takes over the series left by an earlier worker of this index.

        Args:
            folder: of all workers' files; None for a single process, or if there is no folder.
            index: the number of this worker.
            table: the states of all workers, None for a single process.
        """
        self._folder, self._index, self._table = folder, index, table
        self._families: dict[str, Family[Any]] = {}
        self._shared: dict[SeriesKey, int] = {}
        self._private: dict[SeriesKey, int] = {}
        self._private_memory = mmap.mmap(-1, MAX_VALUES_BYTES)
        self._private_slots = memoryview(self._private_memory).cast("d")
        self._private_used = 0
        self._places: dict[SeriesKey, int] = {}
        self._plan: Plan | None = None
        self._lock = threading.RLock()
        self._others: dict[int, OtherWorker] = {}
        self._reported = False
        self._log = structlog.get_logger(component="metrics")
        self._files = None if folder is None else self._open(folder)
        if self._files is not None:
            self._slots = memoryview(self._files.memory).cast("d")
            self._shared |= {(name, values): slot for name, values, slot, _ in self._files.kept}

    @property
    def unshared(self) -> int:
        """The number of series that the other workers do not see."""
        return 0 if self._table is None else len(self._private)

    def counter(self, name: str, description: str, names: tuple[str, ...] = ()) -> Family[Counter]:
        """A family of counters; `_total` is appended to its name."""
        return self._add(Family(f"{name}_total", description, names, Counter, (), self._create))

    def gauge(
        self, name: str, description: str, names: tuple[str, ...] = (), *, largest: bool = False
    ) -> Family[Gauge]:
        """A family of gauges, aggregated over workers by their sum, or by the largest value."""
        return self._add(Family(name, description, names, Gauge, (), self._create, largest))

    def histogram(
        self, name: str, description: str, names: tuple[str, ...], bounds: Sequence[float]
    ) -> Family[Histogram]:
        """A family of histograms with these upper bounds, ascending."""
        made = Family(name, description, names, Histogram, tuple(bounds), self._create)
        return self._add(made)

    def render(self) -> str:
        """The text, with a final line break; takes milliseconds, and may run in any thread."""
        with self._lock:
            self._adopt()
            shared = 0 if self._files is None else self._files.used
            if self._plan is None:
                private = {key: shared + slot for key, slot in self._private.items()}
                self._places = self._shared | private
                used = shared + self._private_used
                self._plan = Plan(list(self._families.values()), self._places, used)
            return self._plan.render(*self._gather(shared))

    def _open(self, folder: Path) -> OwnFiles | None:
        try:
            return OwnFiles(folder, self._index)
        except OSError as error:
            self._report(error)
            return None

    def _add(self, family: Family[S]) -> Family[S]:
        self._families[family.name] = family
        if issubclass(family.kind, Gauge):  # left by an earlier worker
            for (name, _), slot in self._shared.items():
                if name == family.name:
                    self._slots[slot] = 0.0
        return family

    def _create(self, family: Family[Any], values: tuple[str, ...]) -> Any:
        """Creates a series, under the lock: a scrape sees it with its slots or not at all."""
        if len(values) != len(family.names):
            raise ValueError(f"{family.name}: expected values of {family.names}, not {values}")
        with self._lock:
            if values in family.children:
                return family.children[values]
            slots, slot = self._place(family, values)
            child = family.children[values] = family.kind(slots, slot, family.bounds)
            self._plan = None
            return child

    def _place(self, family: Family[Any], values: tuple[str, ...]) -> tuple[memoryview[float], int]:
        """The slots of a series: existing ones, new ones in the file, or else in memory only."""
        key = family.name, values
        if key not in self._shared and self._files is not None:
            try:
                self._shared[key] = self._files.add(*key, family.width)
            except OSError as error:
                self._report(error)
        if key in self._shared:
            return self._slots, self._shared[key]
        slot = self._private[key] = self._private_used
        self._private_used += family.width
        return self._private_slots, slot

    def _report(self, error: OSError) -> None:
        """Logs the first failure to share a series."""
        if not self._reported:
            self._reported = True
            self._log.error(
                "metrics are not shared with the other workers",
                folder=str(self._folder),
                problem=error.strerror,
            )

    def _adopt(self) -> None:
        """Creates the other workers' series in this worker, too."""
        if self._folder is None:
            return
        with contextlib.suppress(OSError):  # the workers known so far are enough
            for path in self._folder.glob(LAYOUTS):
                index = int(path.stem.partition("-")[2])
                if index != self._index:
                    self._others.setdefault(index, OtherWorker(path))
        for other in self._others.values():
            other.adopt(self._families)

    def _gather(self, shared: int) -> tuple[Values, Values]:
        """Sums and largest values over the workers, in the order of this worker's slots."""
        private = np.frombuffer(self._private_memory, np.float64, self._private_used)
        if self._files is None:
            totals = private.copy()
        else:
            own = np.frombuffer(self._files.memory, np.float64, shared)
            totals = np.concatenate([own, private])
        if self._folder is None:
            return totals, totals
        largest = totals.copy()
        alive = [] if self._table is None else self._table.alive()
        live = {worker.index for worker in alive if worker.state is not State.STALLED}
        for index, other in self._others.items():
            values, places = other.read(self._families, self._places, live=index in live)
            np.add.at(totals, places, values)
            np.maximum.at(largest, places, values)
        return totals, largest
