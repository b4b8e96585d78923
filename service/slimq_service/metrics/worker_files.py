"""The files through which workers share their series.

Each worker has two files: `worker-N.values`, the slots of its series, mapped into its memory, and
`worker-N.layout`, one line of JSON for each series that says which slots it has.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slimq_service.metrics.instruments import Family, Gauge, Values

LAYOUTS = "worker-*.layout"
MAX_VALUES_BYTES = 2**24
"""Size of a worker's slots; unused ones take no space on disk or in memory."""
SLOT_BYTES = 8
RESERVED_BYTES = 2**18
"""Disk space that is allocated in advance, so that allocations are rare."""
CANNOT_ALLOCATE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
"""Errors of file systems that cannot allocate space without writing to it."""

Entry = tuple[str, tuple[str, ...], int, int]
"""A series in a layout: name, label values, first slot and number of slots."""


def read_layout(path: Path, offset: int) -> tuple[list[Entry], int]:
    """The complete lines after an offset, and where they end; none if they cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read()
    except OSError:
        return [], offset
    whole = content[: content.rfind(b"\n") + 1]
    rows = [json.loads(line) for line in whole.splitlines()]
    entries = [(name, tuple(values), slot, width) for name, values, slot, width in rows]
    return entries, offset + len(whole)


class OwnFiles:
    """The files of this worker.

    Attributes:
        memory: its slots.
        kept: the series left by an earlier worker of this index.
        used: the number of slots in use.
    """

    def __init__(self, folder: Path, index: int) -> None:
        """Opens the files, or creates them.

        Raises:
            OSError: they cannot be opened, for example because the disk is full or read-only.
        """
        self._layout = folder / f"worker-{index}.layout"
        self._values = self._layout.with_suffix(".values")
        with self._values.open("a+b") as file:
            file.truncate(MAX_VALUES_BYTES)
            self.memory = mmap.mmap(file.fileno(), MAX_VALUES_BYTES)
        self._layout.touch()
        self.kept, self._end = read_layout(self._layout, 0)
        self.used = max((slot + width for _, _, slot, width in self.kept), default=0)
        self._allocated = 0

    def add(self, name: str, values: tuple[str, ...], width: int) -> int:
        """Adds a series; returns its first slot.

        Raises:
            OSError: no space left; the files are unchanged.
        """
        slot, end = self.used, self.used + width
        self._allocate(end * SLOT_BYTES)
        line = (json.dumps([name, values, slot, width]) + "\n").encode()
        with self._layout.open("r+b", buffering=0) as file:
            file.seek(self._end)
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                with contextlib.suppress(OSError):  # otherwise the next line would overwrite it
                    file.truncate(self._end)
                raise
        self.used, self._end = end, self._end + len(line)
        return slot

    def _allocate(self, needed: int) -> None:
        """Allocates space on disk: writing to a mapped page without any would kill the process.

        Raises:
            OSError: there is not enough.
        """
        if needed <= self._allocated:
            return
        if needed > MAX_VALUES_BYTES:
            raise OSError(errno.EFBIG, f"metrics exceed {MAX_VALUES_BYTES} bytes")
        begin = max(
            self._allocated, self.used * SLOT_BYTES
        )  # slots in use may be written to meanwhile
        with self._values.open("r+b") as file:
            for end in (min(MAX_VALUES_BYTES, needed + RESERVED_BYTES), needed):
                try:
                    _allocate(file.fileno(), begin, end - begin)
                except OSError:
                    if end == needed:
                        raise
                else:
                    self._allocated = end
                    return


def _allocate(descriptor: int, begin: int, length: int) -> None:
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, begin, length)
            return
    except OSError as error:
        if error.errno not in CANNOT_ALLOCATE:
            raise
    if os.pwrite(descriptor, bytes(length), begin) < length:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class OtherWorker:
    """The series of another worker, read from its files."""

    def __init__(self, layout: Path) -> None:
        self._layout, self._values = layout, layout.with_suffix(".values")
        self._offset = 0
        self._entries: list[Entry] = []
        self._stored: Values = np.zeros(0)

    def adopt(self, families: Mapping[str, Family[Any]]) -> None:
        """Creates every series of that worker in this worker, too."""
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
        """Its values, and this worker's slots for them; without gauges if it is not `live`.

        If the file cannot be read, the last values are returned.
        """
        theirs: list[int] = []
        ours: list[int] = []
        for name, values, slot, width in self._entries:
            if live or not issubclass(families[name].kind, Gauge):
                start = places[name, values]
                theirs += range(slot, slot + width)
                ours += range(start, start + width)
        count = max(theirs, default=-1) + 1
        with contextlib.suppress(OSError):
            self._stored = np.fromfile(self._values, np.float64, count)
        missing = max(0, count - len(self._stored))
        return np.pad(self._stored, (0, missing))[theirs], np.array(ours, np.int64)
