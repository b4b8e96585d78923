"""How the steps climb: which rate a variant is asked for next, and when its sweep is over."""

from __future__ import annotations

FIRST_SHARE = 0.25
"""What the first step asks of the slowest variant."""
MAX_MISSES = 2
"""Steps in a row that must not hold before a variant's climb ends: one may be bad luck."""
MAX_OVER_WARM_UP = 2.0
"""No step asks for more than so many times what a variant answered in the warm-up, had that had
the steps' connections."""
CAP = "cap"
"""What ended a sweep that still held, and in which no more was asked for."""


class Sweep:
    """One variant's way to the highest rate that it holds.

    It rises from where it begins until it has missed twice in a row. Where it did not hold even
    what it began with, because the machine is slower now than it was, it descends from there to the
    first rate that is held, or to the floor.

    Attributes:
        held: the highest rate that was held so far, in requests per second; 0 where none was.
        ending: what ended it, as `why_not_held` or `CAP`; None while it goes on.
    """

    def __init__(self, begin: float, factor: float, fall: float, floor: float, top: float) -> None:
        """Stands before its first step.

        Args:
            begin: requests per second of the first step.
            factor: a rate over the one before, on the way up.
            fall: a rate over the one after it, on the way down.
            floor: no step asks for less.
            top: no step asks for more.
        """
        self.ending: str | None = None
        self._rate, self._begin = begin, begin
        self._factor, self._fall, self._floor, self._top = factor, fall, floor, top
        self.held = 0.0
        self._misses, self._falling = 0, False
        self._why: str | None = None

    @property
    def rate(self) -> float:
        """What the next step asks for."""
        return round_rate(self._rate)

    def record(self, why: str | None) -> None:
        """Hears how the step went: None where it held, or why it did not."""
        if why is None:
            self.held, self._misses = self._rate, 0
        else:
            self._misses += 1
            self._why = why
        if self._falling:
            self._go_down(why)
        elif self._misses == MAX_MISSES or self._rate * self._factor > self._top:
            self._turn(why)
        else:
            self._rate *= self._factor

    def _turn(self, why: str | None) -> None:
        """The way up is over."""
        if self.held or self._begin <= self._floor:
            self.ending = why or CAP
        else:
            self._falling, self._rate = True, max(self._floor, self._begin / self._fall)

    def _go_down(self, why: str | None) -> None:
        if why is None:
            self.ending = self._why
        elif self._rate <= self._floor:
            self.ending = why
        else:
            self._rate = max(self._floor, self._rate / self._fall)


def round_rate(rate: float) -> float:
    """To three digits, as it is shown."""
    return float(f"{max(0.1, rate):.3g}")
