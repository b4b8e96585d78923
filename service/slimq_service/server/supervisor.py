"""Several workers that share the listening sockets: started, watched, replaced, ended together.

A worker that dies loses the requests that it was answering; connections that wait in the sockets'
queues go to the others. It is replaced at once, and later and later where it dies young again. One
that has never answered, before any other has, ends the service: what is wrong with it is wrong with
all.

The folder for the workers' metrics and for their own sockets is made before they begin, and is
removed with them.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, cast

import structlog

from slimq_service.metrics.worker_files import ENDED_FILE, LIVE_FILE, RESTARTS_FILE
from slimq_service.server.logs import current_level
from slimq_service.server.orders import START_FAILED, UP, Orders
from slimq_service.server.worker_folder import WorkerFolder
from slimq_service.settings import Settings

TICK_SECONDS = 0.1
YOUNG_SECONDS = 10.0
"""A worker that dies within this time of its start is started again after a pause."""
LONGEST_PAUSE_SECONDS = 10.0
GRACE_SECONDS = 5.0
"""Beyond what a worker may take to end, after which it is killed."""


@dataclass
class _Worker:
    """A process; `orders` stays open as long as the supervisor lives."""

    process: subprocess.Popen[bytes]
    orders: IO[bytes]
    answers: IO[bytes]
    started: float
    up: bool = False


@dataclass
class _Slot:
    """A worker's place, whoever has it now."""

    index: int
    worker: _Worker | None = None
    early_deaths: int = 0
    next_start: float = 0.0


class Supervisor:
    """Runs the workers."""

    def __init__(self, settings: Settings, sockets: Sequence[socket.socket]) -> None:
        """Starts nothing yet.

        Args:
            settings: for every worker.
            sockets: that they share, listening.
        """
        self._settings, self._sockets = settings, sockets
        self._slots = [_Slot(index) for index in range(settings.workers)]
        self._restarts = 0
        self._ever_up = False
        self._ending = 0
        self._signal = signal.SIGTERM
        self._log = structlog.get_logger(component="supervisor")

    def run(self) -> None:
        """Runs until a signal; then every worker ends as a single process does.

        Raises:
            InvalidInputError: the temporary folder's path is too long for a socket's.
            SystemExit: the first worker's status, where none could start.
        """
        folder = WorkerFolder.create()
        old = {s: signal.signal(s, self._end) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            status = self._supervise(folder)
        finally:
            self._kill()
            folder.remove()
            for number, handler in old.items():
                signal.signal(number, handler)
        if status:
            raise SystemExit(status)

    def _supervise(self, folder: WorkerFolder) -> int:
        deadline: float | None = None
        told = 0
        while True:
            now = time.monotonic()
            for slot in self._slots:
                status = self._look(slot, folder)
                if status is not None and not self._ever_up and not self._ending:
                    return status or 1
                if slot.worker is None and not self._ending and now >= slot.next_start:
                    self._start(slot, folder)
                    if slot.worker is None and not self._ever_up:
                        return START_FAILED
            alive = [slot.worker for slot in self._slots if slot.worker is not None]
            if self._ending > told:
                told = self._ending
                for worker in alive:
                    worker.process.send_signal(self._signal)
                settings = self._settings
                longest = settings.drain_seconds + settings.shutdown_seconds + GRACE_SECONDS
                deadline = deadline or now + longest
            if self._ending and not alive:
                return 0
            if deadline is not None and now >= deadline:
                pids = [worker.process.pid for worker in alive]
                self._log.error("workers did not end in time", pids=pids)
                return 0
            folder.retry()
            _wait(alive)

    def _start(self, slot: _Slot, folder: WorkerFolder) -> None:
        settings = self._settings.reveal()
        descriptors = [one.fileno() for one in self._sockets]
        path = None if folder.path is None else str(folder.path)
        orders = Orders(settings, descriptors, path, slot.index, current_level())
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "slimq_service.server.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=descriptors,
                start_new_session=True,
            )
        except OSError as error:  # no process, descriptor or memory left: the others go on
            self._log.error("worker not started", worker=slot.index, problem=str(error))
            slot.next_start = time.monotonic() + LONGEST_PAUSE_SECONDS
            return
        pipes = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        slot.worker = _Worker(process, *pipes, time.monotonic())
        with contextlib.suppress(BrokenPipeError):  # it died; that is seen in a moment
            slot.worker.orders.write(orders.encode())
            slot.worker.orders.flush()
        self._log.info("worker started", worker=slot.index, pid=process.pid)
        self._write(folder)

    def _look(self, slot: _Slot, folder: WorkerFolder) -> int | None:
        """The status of a worker that has died, None of one that lives or is not started."""
        worker = slot.worker
        if worker is None:
            return None
        if not worker.up and _has_answered(worker):
            worker.up = self._ever_up = True
            self._log.info("worker answers", worker=slot.index, pid=worker.process.pid)
        status = worker.process.poll()
        if status is not None:
            _close(worker)
            slot.worker = None
            if not self._ending:
                self._mourn(slot, worker, status)
                self._write(folder)
        return status

    def _mourn(self, slot: _Slot, worker: _Worker, status: int) -> None:
        """Says that a worker died, and decides when the next one takes its place."""
        self._log.error("worker died", worker=slot.index, pid=worker.process.pid, status=status)
        now = time.monotonic()
        young = now - worker.started < YOUNG_SECONDS
        slot.early_deaths = slot.early_deaths + 1 if young else 0
        pause = 0.25 * 2**slot.early_deaths if slot.early_deaths > 1 else 0.0
        slot.next_start = now + min(pause, LONGEST_PAUSE_SECONDS)
        self._restarts += 1

    def _write(self, folder: WorkerFolder) -> None:
        """Tells the workers what they cannot know of each other, for their metrics."""
        alive = [(s.index, s.worker.process.pid) for s in self._slots if s.worker is not None]
        live = " ".join(f"{index}:{pid}" for index, pid in alive)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        folder.tell(
            {
                ENDED_FILE: repr(spent.ru_utime + spent.ru_stime),
                LIVE_FILE: live,
                RESTARTS_FILE: str(self._restarts),
            }
        )

    def _kill(self) -> None:
        """Ends whoever is left."""
        for slot in self._slots:
            if slot.worker is not None:
                slot.worker.process.kill()
                slot.worker.process.wait()
                _close(slot.worker)

    def _end(self, number: int, frame: types.FrameType | None) -> None:  # noqa: ARG002
        """Each signal is passed on: who interrupts again does not want to wait."""
        self._signal = signal.Signals(number)
        self._ending += 1


def _close(worker: _Worker) -> None:
    with contextlib.suppress(BrokenPipeError):
        worker.orders.close()
    worker.answers.close()


def _has_answered(worker: _Worker) -> bool:
    ready = select.select([worker.answers], [], [], 0)[0]
    return bool(ready) and os.read(worker.answers.fileno(), len(UP)) == UP


def _wait(alive: Sequence[_Worker]) -> None:
    """Until a worker says that it answers, or a moment has passed."""
    starting = [w.answers for w in alive if not w.up and w.process.poll() is None]
    if starting:
        select.select(starting, [], [], TICK_SECONDS)
    else:
        time.sleep(TICK_SECONDS)
