"""Searches for the highest sustained rate: the rate of each step, and the end of a sweep."""

from __future__ import annotations

FIRST_SHARE = 0.25
"""Rate of the first step, as a share of the slowest variant's throughput in the warm-up."""
MAX_MISSES = 2
"""Consecutive missed steps that end a variant's climb: a single one may be bad luck."""
MAX_OVER_WARM_UP = 2.0
"""Maximum rate of a step, as a multiple of a variant's throughput in the warm-up, scaled to the
steps' number of connections."""
CAP = "cap"
"""Ending of a sweep whose highest rate was sustained."""


class Sweep:
    """One variant's search for the highest rate that it sustains.

    The rate rises until two consecutive steps are missed. If even the first one is not sustained,
    because the machine has become slower, the rate falls from there to the first one that is, or to
    the floor.

    Attributes:
        sustained: the highest rate sustained so far, in requests per second; 0 if none.
        ending: what ended the sweep, from `find_shortfall` or `CAP`; None while it is running.
    """

    def __init__(self, begin: float, factor: float, fall: float, floor: float, top: float) -> None:
        """Starts a sweep.

        Args:
            begin: requests per second of the first step.
            factor: ratio of a rate to the previous one, when rising.
            fall: ratio of a rate to the next one, when falling.
            floor: minimum rate.
            top: maximum rate.
        """
        self.ending: str | None = None
        self._rate, self._begin = begin, begin
        self._factor, self._fall, self._floor, self._top = factor, fall, floor, top
        self.sustained = 0.0
        self._misses, self._falling = 0, False
        self._why: str | None = None

    @property
    def rate(self) -> float:
        """Requests per second of the next step."""
        return round_rate(self._rate)

    def record(self, why: str | None) -> None:
        """Records a step: None if its rate was sustained, otherwise the reason why not."""
        if why is None:
            self.sustained, self._misses = self._rate, 0
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
        """Ends the climb: the sweep is over, or the rate falls."""
        if self.sustained or self._begin <= self._floor:
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
    """Rounds a rate to three digits, as displayed."""
    return float(f"{max(0.1, rate):.3g}")
