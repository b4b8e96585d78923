"""The text of series in Prometheus' exposition format 0.0.4; constant parts of lines are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slimq_service.metrics.instruments import Family, Histogram, Values


class Plan:
    """The lines of the text and the slots of their values; only changed values are formatted."""

    def __init__(
        self,
        families: Sequence[Family[Any]],
        places: Mapping[tuple[str, tuple[str, ...]], int],
        used: int,
    ) -> None:
        """Starts without values.

        Args:
            families: all of them.
            places: the first slot of every series.
            used: the number of slots.
        """
        self._starts: list[str] = []
        self._counted = np.zeros(used, np.bool_)
        first: list[int] = []
        last: list[int] = []
        largest: list[bool] = []
        for family in families:
            first_line = len(self._starts)
            buckets = _bucket_starts(family)
            for values in family.children:
                slot = places[family.name, values]
                end = slot + family.width - 1
                labels = _labels(family.names, values)
                suffix = f"{{{labels}}} " if labels else " "
                if family.kind is Histogram:
                    tail = f",{labels}}} " if labels else "} "
                    self._starts += [bucket + tail for bucket in buckets]
                    self._starts += [f"{family.name}_count{suffix}", f"{family.name}_sum{suffix}"]
                    self._counted[slot:end] = True
                    first += [slot] * (len(buckets) + 1)
                    last += [*range(slot + 1, end + 1), end]
                else:
                    self._starts.append(f"{family.name}{suffix}")
                first.append(end)
                last.append(end + 1)
            if len(self._starts) > first_line:
                self._starts[first_line] = _head(family) + self._starts[first_line]
            largest += [family.largest] * (len(self._starts) - first_line)
        self._first, self._last = np.array(first, np.int64), np.array(last, np.int64)
        self._largest = np.array(largest, np.bool_)
        self._single = ~self._counted[self._first]
        self._lines = list(self._starts)
        self._values = np.full(len(self._starts), np.nan)

    def render(self, totals: Values, largest: Values) -> str:
        """The text; counts are summed separately from other sums, so that they remain integers."""
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
    """The beginnings of a histogram's bucket lines, up to the other labels."""
    bounds = [*map(repr, map(float, family.bounds)), "+Inf"]
    return [f'{family.name}_bucket{{le="{bound}"' for bound in bounds]


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    pairs = sorted(zip(names, values, strict=True))
    return ",".join(f'{name}="{escape(value)}"' for name, value in pairs)


def escape(value: str) -> str:
    """A label's value, escaped for quotes."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
