"""The state of every worker of a service, in memory that the supervisor and the workers share.

It is a row of numbers for the service, and one for each worker. Each number has one writer: the
supervisor, or the worker whose row it is in. The memory is an anonymous file whose descriptor the
supervisor passes to its workers, so that no missing folder or full disk can affect it.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

COLUMNS = 6
_STATE, _PID, _BEATS, _TAKEN, _CLOSED, _LEAVING = range(COLUMNS)
_RESTARTS, _STALLS, _ENDED = range(3)
"""Columns of the row of the service, which is the first."""
NUMBER_BYTES = 8


def _anonymous_file() -> int:
    """A file without a name; where the system has none in memory, in the temporary folder."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("slimq-workers")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class State(IntEnum):
    """The state of a worker, as the supervisor sees it."""

    ABSENT = 0
    STARTING = 1
    ANSWERING = 2
    STALLED = 3


@dataclass(frozen=True)
class Worker:
    """A live worker.

    Attributes:
        index: its place among the workers.
        pid: its process id.
        state: its state when the supervisor last looked.
    """

    index: int
    pid: int
    state: State


class WorkerTable:
    """The rows; workers that are not running have one too."""

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
            workers: how many rows it has.

        Raises:
            OSError: no memory or descriptor is left.
        """
        descriptor = _anonymous_file()
        os.pwrite(descriptor, bytes((workers + 1) * COLUMNS * NUMBER_BYTES), 0)
        return cls(descriptor)

    def close(self) -> None:
        """Releases the memory; other processes keep theirs."""
        self._numbers.release()
        self._memory.close()
        os.close(self.descriptor)

    # What the supervisor writes.

    def set_state(self, index: int, state: State, pid: int) -> None:
        """Sets the state of a worker; when one starts or has ended, its row is cleared."""
        start = self._start(index)
        if state in (State.ABSENT, State.STARTING):
            self._numbers[start : start + COLUMNS] = memoryview(bytes(COLUMNS * NUMBER_BYTES)).cast(
                "d"
            )
        self._numbers[start + _PID] = pid
        self._numbers[start + _STATE] = state

    def count_restart(self, *, stalled: bool) -> None:
        """Counts a replaced worker, and whether it was killed because it had stalled."""
        self._numbers[_RESTARTS] += 1
        self._numbers[_STALLS] += stalled

    def set_ended_seconds(self, seconds: float) -> None:
        """Sets the processor time of the workers that have ended."""
        self._numbers[_ENDED] = seconds

    # What a worker writes.

    def beat(self, index: int) -> None:
        """Records that a worker's event loop is running."""
        self._numbers[self._start(index) + _BEATS] += 1

    def count_connections(self, index: int, taken: int, is_open: int) -> None:
        """Sets how many connections a worker has taken over, and how many of them are open."""
        start = self._start(index)
        self._numbers[start + _CLOSED] = taken - is_open
        self._numbers[start + _TAKEN] = taken

    def leave(self, index: int) -> None:
        """Records that a worker wants no further connections."""
        self._numbers[self._start(index) + _LEAVING] = 1

    # What everybody reads.

    def alive(self) -> Iterator[Worker]:
        """The live workers."""
        for index in range(self.size):
            state = self.state(index)
            if state != State.ABSENT:
                yield Worker(index, int(self._numbers[self._start(index) + _PID]), state)

    def state(self, index: int) -> State:
        """The state of a worker."""
        return State(int(self._numbers[self._start(index) + _STATE]))

    def beats(self, index: int) -> float:
        """A number that grows while a worker's event loop is running."""
        return self._numbers[self._start(index) + _BEATS]

    def taken(self, index: int) -> int:
        """The number of connections that a worker has taken over."""
        return int(self._numbers[self._start(index) + _TAKEN])

    def closed(self, index: int) -> int:
        """How many of those have been closed."""
        return int(self._numbers[self._start(index) + _CLOSED])

    def is_leaving(self, index: int) -> bool:
        """Whether a worker wants no further connections."""
        return bool(self._numbers[self._start(index) + _LEAVING])

    @property
    def restarts(self) -> int:
        """The number of replaced workers."""
        return int(self._numbers[_RESTARTS])

    @property
    def stalls(self) -> int:
        """How many of those had stalled."""
        return int(self._numbers[_STALLS])

    @property
    def ended_seconds(self) -> float:
        """Processor time of the workers that have ended."""
        return self._numbers[_ENDED]

    def _start(self, index: int) -> int:
        return (index + 1) * COLUMNS
