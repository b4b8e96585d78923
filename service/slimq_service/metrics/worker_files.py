"""The files by which workers know of each other's series."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slimq_service.metrics.instruments import Family, Gauge, Values

Entry = tuple[str, tuple[str, ...], int, int]
"""A series in a layout: name, label values, first slot and number of slots."""


def read_layout(path: Path, offset: int) -> tuple[list[Entry], int]:
    """The whole lines behind an offset, and where they end."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read()
    except FileNotFoundError:
        return [], offset
    whole = content[: content.rfind(b"\n") + 1]
    rows = [json.loads(line) for line in whole.splitlines()]
    return [(name, tuple(values), slot, width) for name, values, slot, width in rows], offset + len(
        whole
    )


class OtherWorker:
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
