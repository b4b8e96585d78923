"""Counters, gauges and histograms: slots of doubles that only the event loop writes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


class Counter:
    """A number that only increases."""

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
        """Subtracts from it."""
        self._slots[self._slot] -= amount

    def set(self, value: float) -> None:
        """Sets it."""
        self._slots[self._slot] = value


class Histogram:
    """Counts of values between bounds, and the sum of the values."""

    __slots__ = ("_bounds", "_slot", "_slots", "_sum")

    def __init__(self, slots: Any, slot: int, bounds: Sequence[float]) -> None:
        self._slots, self._slot, self._bounds = slots, slot, list(bounds)
        self._sum = slot + len(bounds) + 1

    def observe(self, value: float) -> None:
        """Adds a value."""
        slots = self._slots
        slots[self._slot + bisect_left(self._bounds, value)] += 1.0
        slots[self._sum] += value


S = TypeVar("S", Counter, Gauge, Histogram)


@dataclass
class Family(Generic[S]):
    """The series with one name, one for each combination of label values."""

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
        """Slots of one series; a histogram has one per bound, one beyond the last, and the sum."""
        return len(self.bounds) + 2 if self.kind is Histogram else 1

    def labels(self, *values: str) -> S:
        """The series with these label values, initially 0."""
        found = self.children.get(values)
        if found is not None:
            return found
        made: S = self.create(self, values)
        return made
