"""Counters, gauges and histograms that cost the hot path next to nothing.

prometheus_client takes a lock for every number that changes, more still with several workers, and
140 ms of the interpreter's lock for the text of 60 variants. Here a number is one slot of doubles
in memory that only the event loop writes, and the beginnings of the text's lines are kept.

With several workers each one's slots are a file in a folder that all of them read, with a second
file that says what is in which slot. A worker that takes the place of a dead one goes on with its
files, so that counters survive; gauges begin anew, and those of the dead and the stalled count for
nothing.

The text is Prometheus' exposition format 0.0.4.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slimq_service.http.worker_table import State, read_workers
from slimq_service.metrics.instruments import Counter, Family, Gauge, Histogram, S, Values
from slimq_service.metrics.text_format import Plan
from slimq_service.metrics.worker_files import OtherWorker, read_layout

FILE_BYTES = 2**24
"""Of a worker's slots; what is not used takes no room on disk or in memory."""
SLOT_BYTES = 8
RESERVED_BYTES = 2**18
"""Room on disk that is taken beyond what is needed, so that it is rarely asked for."""
NO_RESERVATIONS = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
"""What file systems say that reserve nothing."""


class Registry:
    """Every series of a process, and the text that says what they are over all workers."""

    def __init__(self, folder: Path | None = None, index: int = 0) -> None:
        """Takes over what a worker of this index has left.

        Args:
            folder: of all workers' files, None where there is one process.
            index: which worker this is.
        """
        self._folder, self._index = folder, index
        self._families: dict[str, Family[Any]] = {}
        self._places: dict[tuple[str, tuple[str, ...]], int] = {}
        self._used = self._reserved = 0
        self._lock = threading.RLock()
        self._others: dict[int, OtherWorker] = {}
        self._plan: Plan | None = None
        if folder is None:
            self._memory = mmap.mmap(-1, FILE_BYTES)
            self._layout: Path | None = None
        else:
            self._layout = folder / f"worker-{index}.layout"
            with self._layout.with_suffix(".values").open("a+b") as file:
                file.truncate(FILE_BYTES)
                self._memory = mmap.mmap(file.fileno(), FILE_BYTES)
            kept, end = read_layout(self._layout, 0)
            if self._layout.exists():
                os.truncate(self._layout, end)  # of a line that a worker died over
            for name, values, slot, width in kept:
                self._places[name, values] = slot
                self._used = slot + width
        self._slots = memoryview(self._memory).cast("d")

    def counter(self, name: str, description: str, names: tuple[str, ...] = ()) -> Family[Counter]:
        """A family of counters; `_total` comes behind its name."""
        return self._add(Family(f"{name}_total", description, names, Counter, (), self._create))

    def gauge(
        self, name: str, description: str, names: tuple[str, ...] = (), *, largest: bool = False
    ) -> Family[Gauge]:
        """A family of gauges, joined over workers by their sum, or the largest."""
        return self._add(Family(name, description, names, Gauge, (), self._create, largest))

    def histogram(
        self, name: str, description: str, names: tuple[str, ...], bounds: Sequence[float]
    ) -> Family[Histogram]:
        """A family of histograms with these upper bounds, ascending."""
        made = Family(name, description, names, Histogram, tuple(bounds), self._create)
        return self._add(made)

    def render(self) -> str:
        """The text, with a line break at its end; takes some milliseconds, in any thread."""
        with self._lock:
            totals, largest = self._gather()
            if self._plan is None:
                self._plan = Plan(list(self._families.values()), self._places, self._used)
            return self._plan.render(totals, largest)

    def _add(self, family: Family[S]) -> Family[S]:
        self._families[family.name] = family
        if issubclass(family.kind, Gauge):  # of a worker before this one, whatever it had
            for (name, _), slot in self._places.items():
                if name == family.name:
                    self._slots[slot] = 0.0
        return family

    def _create(self, family: Family[Any], values: tuple[str, ...]) -> Any:
        """A series, under the lock: a scrape sees it with its slots, or not at all."""
        if len(values) != len(family.names):
            raise ValueError(f"{family.name}: expected values of {family.names}, not {values}")
        with self._lock:
            if values in family.children:
                return family.children[values]
            slot = self._places.get((family.name, values))
            if slot is None:
                slot = self._place(family, values)
            child = family.children[values] = family.kind(self._slots, slot, family.bounds)
            self._plan = None
            return child

    def _place(self, family: Family[Any], values: tuple[str, ...]) -> int:
        """New slots, which other workers find by the layout."""
        slot, end = self._used, self._used + family.width
        if self._layout is not None:
            self._reserve(self._layout, end)
            line = json.dumps([family.name, values, slot, family.width]) + "\n"
            with self._layout.open("ab") as file:
                before = file.tell()
                try:
                    file.write(line.encode())
                    file.flush()
                except OSError:
                    file.truncate(before)  # half a line would spoil the next
                    raise
        self._places[family.name, values], self._used = slot, end
        return slot

    def _reserve(self, layout: Path, slots: int) -> None:
        """Takes room on disk for so many slots: writing to a page that finds none kills a process.

        Raises:
            OSError: there is none.
        """
        needed = slots * SLOT_BYTES
        if needed <= self._reserved or not hasattr(os, "posix_fallocate"):
            return
        begin = max(self._reserved, self._used * SLOT_BYTES)  # what is in use may be written to now
        end = max(needed, min(FILE_BYTES, needed + RESERVED_BYTES))
        with layout.with_suffix(".values").open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), begin, end - begin)
            except OSError as error:
                if error.errno not in NO_RESERVATIONS:
                    raise
        self._reserved = end

    def _gather(self) -> tuple[Values, Values]:
        """Sums and largest values over the workers, by this worker's slots."""
        if self._folder is None:
            own = np.frombuffer(self._memory, np.float64, self._used).copy()
            return own, own
        workers = read_workers(self._folder)
        live = {worker.index for worker in workers if worker.state is not State.STALLED}
        for path in self._folder.glob("worker-*.layout"):
            index = int(path.stem.partition("-")[2])
            if index != self._index:
                self._others.setdefault(index, OtherWorker(path)).adopt(self._families)
        totals = np.frombuffer(self._memory, np.float64, self._used).copy()
        largest = totals.copy()
        for index, other in self._others.items():
            values, slots = other.read(self._families, self._places, live=index in live)
            np.add.at(totals, slots, values)
            np.maximum.at(largest, slots, values)
        return totals, largest
