"""Wakes the event loop at a given time, to some tens of microseconds.

Timers of event loops are rounded up to whole milliseconds, which is more than a small model
takes. Linux has timers that are files (timerfd_create(2)); Python's own binding is of 3.13, so
this one goes through libc. Elsewhere it is the loop's timer, and a report says how late that was.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable

_MONOTONIC = 1
_NONBLOCK_CLOEXEC = 0o2004000
_MIN_NS = 1
"""Zero would disarm the timer."""


class _Interval(ctypes.Structure):
    """`struct itimerspec`: the period, here none, and the time to the first expiry."""

    _fields_ = (
        ("period_s", ctypes.c_long),
        ("period_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    )


class PreciseTimer:
    """Calls a function when its time has come; one time can be set at once."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        self._file = -1
        if self._libc is not None:
            self._file = self._libc.timerfd_create(_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._file >= 0:
            self._loop.add_reader(self._file, self._expire)

    def set(self, when: float) -> None:
        """Calls at this time of `time.perf_counter`, or soon where it has passed."""
        delay = max(0.0, when - time.perf_counter())
        if self._file < 0:
            self.stop()
            self._timer = self._loop.call_later(delay, self._call)
            return
        assert self._libc is not None  # noqa: S101 - a timer has come from it
        seconds, rest = divmod(max(_MIN_NS, int(delay * 1e9)), 1_000_000_000)
        interval = _Interval(0, 0, seconds, rest)
        self._libc.timerfd_settime(self._file, 0, ctypes.byref(interval), None)

    def stop(self) -> None:
        """Forgets the time that was set."""
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        """Gives back what the system lent."""
        self.stop()
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _expire(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._file, 8)
        self._call()
