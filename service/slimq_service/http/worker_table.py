"""The state of every worker of a service, in memory that the supervisor and the workers share.

It is a file in the workers' folder: a row of numbers for the service, and one for each worker. Each
number has one writer: the supervisor, or the worker whose row it is in. Room for it is taken when
it is made, so that a full disk can refuse nothing that is written later.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

FILE = "workers"
COLUMNS = 6
_STATE, _PID, _BEATS, _TAKEN, _CLOSED, _LEAVING = range(COLUMNS)
_RESTARTS, _STALLS, _ENDED = range(3)
"""Columns of the row of the service, which is the first."""
NUMBER_BYTES = 8


class State(IntEnum):
    """Of a worker, as the supervisor sees it."""

    ABSENT = 0
    STARTING = 1
    ANSWERING = 2
    STALLED = 3


@dataclass(frozen=True)
class Worker:
    """A worker that lives.

    Attributes:
        index: its place among the workers.
        pid: its process.
        state: what the supervisor last saw.
    """

    index: int
    pid: int
    state: State


def read_workers(folder: Path) -> list[Worker]:
    """The workers that live, by the table in their folder; none where there is no table."""
    try:
        return list(WorkerTable(folder).alive())
    except OSError:
        return []


class WorkerTable:
    """The rows; workers that do not live have one too."""

    def __init__(self, folder: Path, workers: int | None = None) -> None:
        """Maps the file.

        Args:
            folder: of the workers' files.
            workers: how many there are, to make the file; None where it is there.

        Raises:
            OSError: there is no such file, or no room for it.
        """
        path = folder / FILE
        if workers is not None:
            path.write_bytes(bytes((workers + 1) * COLUMNS * NUMBER_BYTES))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._numbers = memoryview(self._memory).cast("d")
        self.size = len(self._numbers) // COLUMNS - 1

    # What the supervisor writes.

    def set_state(self, index: int, state: State, pid: int) -> None:
        """Says how a worker is; what another in its place has written is gone when one starts."""
        start = self._start(index)
        if state in (State.ABSENT, State.STARTING):
            self._numbers[start : start + COLUMNS] = memoryview(bytes(COLUMNS * 8)).cast("d")
        self._numbers[start + _PID] = pid
        self._numbers[start + _STATE] = state

    def count_restart(self, *, stalled: bool) -> None:
        """Counts a worker that is replaced, and whether it was ended as it did not answer."""
        self._numbers[_RESTARTS] += 1
        self._numbers[_STALLS] += stalled

    def set_ended_seconds(self, seconds: float) -> None:
        """Says how much processor time workers that have ended had."""
        self._numbers[_ENDED] = seconds

    # What a worker writes.

    def beat(self, index: int) -> None:
        """Says that a worker's event loop goes round."""
        self._numbers[self._start(index) + _BEATS] += 1

    def count_connections(self, index: int, taken: int, is_open: int) -> None:
        """Says how many connections a worker has taken over, and how many of them are open."""
        start = self._start(index)
        self._numbers[start + _CLOSED] = taken - is_open
        self._numbers[start + _TAKEN] = taken

    def leave(self, index: int) -> None:
        """Says that a worker takes no more connections than it was handed."""
        self._numbers[self._start(index) + _LEAVING] = 1

    # What everybody reads.

    def alive(self) -> Iterator[Worker]:
        """The workers that live."""
        for index in range(self.size):
            state = self.state(index)
            if state != State.ABSENT:
                yield Worker(index, int(self._numbers[self._start(index) + _PID]), state)

    def state(self, index: int) -> State:
        """How a worker is."""
        return State(int(self._numbers[self._start(index) + _STATE]))

    def beats(self, index: int) -> float:
        """A number that grows while a worker's event loop goes round."""
        return self._numbers[self._start(index) + _BEATS]

    def taken(self, index: int) -> int:
        """Connections that a worker has taken over."""
        return int(self._numbers[self._start(index) + _TAKEN])

    def closed(self, index: int) -> int:
        """Those of them that are open no more."""
        return int(self._numbers[self._start(index) + _CLOSED])

    def is_leaving(self, index: int) -> bool:
        """Whether a worker takes no more."""
        return bool(self._numbers[self._start(index) + _LEAVING])

    @property
    def restarts(self) -> int:
        """Workers that were replaced."""
        return int(self._numbers[_RESTARTS])

    @property
    def stalls(self) -> int:
        """Those of them that were ended as they did not answer."""
        return int(self._numbers[_STALLS])

    @property
    def ended_seconds(self) -> float:
        """Processor time of the workers that have ended."""
        return self._numbers[_ENDED]

    def _start(self, index: int) -> int:
        return (index + 1) * COLUMNS
