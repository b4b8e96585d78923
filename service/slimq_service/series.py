"""Counters, gauges and histograms that cost the hot path next to nothing.

prometheus_client takes a lock for every number that changes, more still with several workers, and
140 ms of the interpreter's lock for the text of 60 variants. Here a number is one slot of doubles
in memory that only the event loop writes, and the beginnings of the text's lines are kept.

With several workers each one's slots are a file in a folder that all of them read, with a second
file that says what is in which slot. A worker that takes the place of a dead one goes on with its
files, so that counters survive; gauges begin anew, and those of the dead count for nothing.

The text is Prometheus' exposition format 0.0.4.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from slimq_service.series_files import Entry, live_workers, read_layout

FILE_BYTES = 2**24
"""Of a worker's slots; what is not used takes no room on disk or in memory."""
SLOT_BYTES = 8
RESERVED_BYTES = 2**18
"""Room on disk that is taken beyond what is needed, so that it is rarely asked for."""
NO_RESERVATIONS = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
"""What file systems say that reserve nothing."""

Values = npt.NDArray[np.float64]


class Counter:
    """A number that only grows."""

    __slots__ = ("_slot", "_slots")

    def __init__(self, slots: Any, slot: int, bounds: Sequence[float]) -> None:  # noqa: ARG002
        self._slots, self._slot = slots, slot

    def inc(self, amount: float = 1.0) -> None:
        """Adds to it."""
        self._slots[self._slot] += amount


class Gauge(Counter):
    """A number that goes up and down."""

    __slots__ = ()

    def dec(self, amount: float = 1.0) -> None:
        """Takes from it."""
        self._slots[self._slot] -= amount

    def set(self, value: float) -> None:
        """Replaces it."""
        self._slots[self._slot] = value


class Histogram:
    """How often values fell between bounds, and their sum."""

    __slots__ = ("_bounds", "_slot", "_slots", "_sum")

    def __init__(self, slots: Any, slot: int, bounds: Sequence[float]) -> None:
        self._slots, self._slot, self._bounds = slots, slot, list(bounds)
        self._sum = slot + len(bounds) + 1

    def observe(self, value: float) -> None:
        """Counts a value."""
        slots = self._slots
        slots[self._slot + bisect_left(self._bounds, value)] += 1.0
        slots[self._sum] += value


S = TypeVar("S", Counter, Gauge, Histogram)


@dataclass
class Family(Generic[S]):
    """The series of one name, one for each set of label values."""

    name: str
    description: str
    names: tuple[str, ...]
    kind: type[S]
    bounds: tuple[float, ...]
    create: Callable[[Family[Any], tuple[str, ...]], Any]
    largest: bool = False
    children: dict[tuple[str, ...], S] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Slots of one series: the counts of a histogram, that beyond its bounds, and its sum."""
        return len(self.bounds) + 2 if self.kind is Histogram else 1

    def labels(self, *values: str) -> S:
        """The series of these label values, 0 at first."""
        found = self.children.get(values)
        if found is not None:
            return found
        made: S = self.create(self, values)
        return made


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
        self._others: dict[int, _Other] = {}
        self._plan: _Plan | None = None
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
                self._plan = _Plan(list(self._families.values()), self._places, self._used)
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
        live = live_workers(self._folder)
        for path in self._folder.glob("worker-*.layout"):
            index = int(path.stem.partition("-")[2])
            if index != self._index:
                self._others.setdefault(index, _Other(path)).adopt(self._families)
        totals = np.frombuffer(self._memory, np.float64, self._used).copy()
        largest = totals.copy()
        for index, other in self._others.items():
            values, slots = other.read(self._families, self._places, live=index in live)
            np.add.at(totals, slots, values)
            np.maximum.at(largest, slots, values)
        return totals, largest


class _Other:
    """What another worker's files say."""

    def __init__(self, layout: Path) -> None:
        self._layout, self._values = layout, layout.with_suffix(".values")
        self._offset = 0
        self._entries: list[Entry] = []

    def adopt(self, families: Mapping[str, Family[Any]]) -> None:
        """Makes every series of that worker one of this one too."""
        found, self._offset = read_layout(self._layout, self._offset)
        for entry in found:
            family = families.get(entry[0])
            if family is not None and family.width == entry[3]:
                family.labels(*entry[1])
                self._entries.append(entry)

    def read(
        self,
        families: Mapping[str, Family[Any]],
        places: Mapping[tuple[str, tuple[str, ...]], int],
        *,
        live: bool,
    ) -> tuple[Values, npt.NDArray[np.int64]]:
        """Its values, and this worker's slots for them; without gauges where it is dead."""
        theirs: list[int] = []
        ours: list[int] = []
        for name, values, slot, width in self._entries:
            if live or not issubclass(families[name].kind, Gauge):
                start = places[name, values]
                theirs += range(slot, slot + width)
                ours += range(start, start + width)
        count = max(theirs, default=-1) + 1
        stored = np.fromfile(self._values, np.float64, count)
        return stored[theirs], np.array(ours, np.int64)


class _Plan:
    """The lines of the text and where their values come from; most are as they were last time."""

    def __init__(
        self,
        families: Sequence[Family[Any]],
        places: Mapping[tuple[str, tuple[str, ...]], int],
        used: int,
    ) -> None:
        """Has no values yet.

        Args:
            families: all of them.
            places: the first slot of every series.
            used: how many slots there are.
        """
        self._starts: list[str] = []
        self._counted = np.zeros(used, np.bool_)
        first: list[int] = []
        last: list[int] = []
        largest: list[bool] = []
        for family in families:
            begun = len(self._starts)
            buckets = _bucket_starts(family)
            for values in family.children:
                slot = places[family.name, values]
                end = slot + family.width - 1
                labels = _labels(family.names, values)
                behind = f"{{{labels}}} " if labels else " "
                if family.kind is Histogram:
                    tail = f",{labels}}} " if labels else "} "
                    self._starts += [bucket + tail for bucket in buckets]
                    self._starts += [f"{family.name}_count{behind}", f"{family.name}_sum{behind}"]
                    self._counted[slot:end] = True
                    first += [slot] * (len(buckets) + 1)
                    last += [*range(slot + 1, end + 1), end]
                else:
                    self._starts.append(f"{family.name}{behind}")
                first.append(end)
                last.append(end + 1)
            if len(self._starts) > begun:
                self._starts[begun] = _head(family) + self._starts[begun]
            largest += [family.largest] * (len(self._starts) - begun)
        self._first, self._last = np.array(first, np.int64), np.array(last, np.int64)
        self._largest = np.array(largest, np.bool_)
        self._single = ~self._counted[self._first]
        self._lines = list(self._starts)
        self._values = np.full(len(self._starts), np.nan)

    def render(self, totals: Values, largest: Values) -> str:
        """The text. Counts are added as whole numbers, apart from the sums of seconds."""
        running = np.concatenate([[0.0], np.cumsum(np.where(self._counted, totals, 0.0))])
        values = running[self._last] - running[self._first]
        values[self._single] = totals[self._first[self._single]]
        values[self._largest] = largest[self._first[self._largest]]
        changed = np.flatnonzero(values != self._values)
        for line, value in zip(changed.tolist(), values[changed].tolist(), strict=True):
            self._lines[line] = f"{self._starts[line]}{value!r}"
        self._values = values
        return "\n".join(self._lines) + "\n" if self._lines else ""


def _head(family: Family[Any]) -> str:
    kind = family.kind.__name__.lower()
    return f"# HELP {family.name} {family.description}\n# TYPE {family.name} {kind}\n"


def _bucket_starts(family: Family[Any]) -> list[str]:
    """Of a histogram's buckets, the lines up to the other labels."""
    bounds = [*map(repr, map(float, family.bounds)), "+Inf"]
    return [f'{family.name}_bucket{{le="{bound}"' for bound in bounds]


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    pairs = sorted(zip(names, values, strict=True))
    return ",".join(f'{name}="{escape(value)}"' for name, value in pairs)


def escape(value: str) -> str:
    """A label's value as it is written between quotes."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
