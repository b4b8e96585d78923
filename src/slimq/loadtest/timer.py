"""Timer for the event loop, accurate to some tens of microseconds.

Event loops round timers up to whole milliseconds, which is longer than a small model takes. On
Linux this uses a timerfd (timerfd_create(2)), through libc since Python has a binding only from
3.13. Elsewhere it uses the loop's timer, and a report states how late that was.
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
    """Calls a function at a set time; only one time can be set."""

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
        """Sets the time of the call, by `time.perf_counter`; a past time calls soon."""
        delay = max(0.0, when - time.perf_counter())
        if self._file < 0:
            self.stop()
            self._timer = self._loop.call_later(delay, self._call)
            return
        assert self._libc is not None  # noqa: S101 - the timer came from it
        seconds, rest = divmod(max(_MIN_NS, int(delay * 1e9)), 1_000_000_000)
        interval = _Interval(0, 0, seconds, rest)
        self._libc.timerfd_settime(self._file, 0, ctypes.byref(interval), None)

    def stop(self) -> None:
        """Cancels the call of the loop's timer."""
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        """Stops the timer and closes its file."""
        self.stop()
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _expire(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._file, 8)
        self._call()
