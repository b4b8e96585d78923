"""The states of a service's workers, in memory shared with the supervisor.

The table has one row for the service and one per worker. Each number has a single writer: the
supervisor, or the worker of the row. The memory is an anonymous file whose descriptor the
supervisor passes to the workers, so that a missing folder or a full disk cannot affect it.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

COLUMNS = 6
_STATE, _PID, _HEARTBEATS, _ACCEPTED, _CLOSED, _DRAINING = range(COLUMNS)
_RESTARTS, _STALLS, _EXITED = range(3)
"""Columns of the first row, which is that of the service."""
NUMBER_BYTES = 8


def _anonymous_file() -> int:
    """An anonymous file, in the temporary folder if the system has no in-memory files."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("slimq-workers")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class State(IntEnum):
    """The state of a worker, as seen by the supervisor."""

    ABSENT = 0
    STARTING = 1
    ANSWERING = 2
    STALLED = 3


@dataclass(frozen=True)
class Worker:
    """A live worker.

    Attributes:
        index: its number.
        pid: its process id.
        state: its state at the supervisor's last check.
    """

    index: int
    pid: int
    state: State


class WorkerTable:
    """The table; workers that are not running have a row, too."""

    def __init__(self, descriptor: int) -> None:
        """Maps the memory.

        Args:
            descriptor: of the anonymous file, which `close` closes.
        """
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, 0)
        self._numbers = memoryview(self._memory).cast("d")
        self.size = len(self._numbers) // COLUMNS - 1

    @classmethod
    def create(cls, workers: int) -> WorkerTable:
        """Allocates the memory.

        Args:
            workers: number of workers.

        Raises:
            OSError: no memory or descriptor is left.
        """
        descriptor = _anonymous_file()
        os.pwrite(descriptor, bytes((workers + 1) * COLUMNS * NUMBER_BYTES), 0)
        return cls(descriptor)

    def close(self) -> None:
        """Releases this process's mapping; those of other processes remain."""
        self._numbers.release()
        self._memory.close()
        os.close(self.descriptor)

    # Written by the supervisor.

    def set_state(self, index: int, state: State, pid: int) -> None:
        """Sets the state of a worker; clears its row when it starts or has exited."""
        start = self._start(index)
        if state in (State.ABSENT, State.STARTING):
            self._numbers[start : start + COLUMNS] = memoryview(bytes(COLUMNS * NUMBER_BYTES)).cast(
                "d"
            )
        self._numbers[start + _PID] = pid
        self._numbers[start + _STATE] = state

    def count_restart(self, *, stalled: bool) -> None:
        """Counts a restarted worker, and whether it was killed because it had stalled."""
        self._numbers[_RESTARTS] += 1
        self._numbers[_STALLS] += stalled

    def set_exited_seconds(self, seconds: float) -> None:
        """Sets the CPU time of the workers that have exited."""
        self._numbers[_EXITED] = seconds

    # Written by workers.

    def heartbeat(self, index: int) -> None:
        """Records that a worker's event loop is running."""
        self._numbers[self._start(index) + _HEARTBEATS] += 1

    def count_connections(self, index: int, accepted: int, is_open: int) -> None:
        """Sets how many connections a worker has accepted, and how many of them are open."""
        start = self._start(index)
        self._numbers[start + _CLOSED] = accepted - is_open
        self._numbers[start + _ACCEPTED] = accepted

    def drain(self, index: int) -> None:
        """Records that a worker accepts no further connections."""
        self._numbers[self._start(index) + _DRAINING] = 1

    # Read by all.

    def alive(self) -> Iterator[Worker]:
        """The live workers."""
        for index in range(self.size):
            state = self.state(index)
            if state != State.ABSENT:
                yield Worker(index, int(self._numbers[self._start(index) + _PID]), state)

    def state(self, index: int) -> State:
        """The state of a worker."""
        return State(int(self._numbers[self._start(index) + _STATE]))

    def heartbeats(self, index: int) -> float:
        """The heartbeats of a worker, which increase while its event loop is running."""
        return self._numbers[self._start(index) + _HEARTBEATS]

    def accepted(self, index: int) -> int:
        """The number of connections that a worker has accepted."""
        return int(self._numbers[self._start(index) + _ACCEPTED])

    def closed(self, index: int) -> int:
        """The number of those that have been closed."""
        return int(self._numbers[self._start(index) + _CLOSED])

    def is_draining(self, index: int) -> bool:
        """Whether a worker accepts no further connections."""
        return bool(self._numbers[self._start(index) + _DRAINING])

    @property
    def restarts(self) -> int:
        """The number of restarted workers."""
        return int(self._numbers[_RESTARTS])

    @property
    def stalls(self) -> int:
        """The number of those that had stalled."""
        return int(self._numbers[_STALLS])

    @property
    def exited_seconds(self) -> float:
        """CPU time in seconds of the workers that have exited."""
        return self._numbers[_EXITED]

    def _start(self, index: int) -> int:
        return (index + 1) * COLUMNS
