"""Several workers: started, given connections, watched, replaced, ended together.

A worker that dies loses the requests that it was answering. It is replaced at once, and later and
later where it dies young again. One that has never answered, before any other has, ends the
service: what is wrong with it is wrong with all.

The folder for the workers' metrics and for their own sockets is made before they begin, and is
removed with them.
"""

from __future__ import annotations

import resource
import signal
import socket
import time
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from slimq_service.http.worker_table import State, WorkerTable
from slimq_service.server.balancer import Balancer
from slimq_service.server.orders import START_FAILED
from slimq_service.server.worker_folder import WorkerFolder
from slimq_service.server.worker_process import WorkerProcess
from slimq_service.settings import Settings

TICK_SECONDS = 0.1
YOUNG_SECONDS = 10.0
"""A worker that dies within this time of its start is started again after a pause."""
MAX_PAUSE_SECONDS = 10.0
GRACE_SECONDS = 5.0
"""Beyond what a worker may take to end, after which it is killed."""


@dataclass
class Slot:
    """A worker's place, whoever has it now."""

    index: int
    worker: WorkerProcess | None = None
    early_deaths: int = 0
    next_start: float = 0.0

    def vacate(self, age: float) -> None:
        """Decides when the next worker takes the place of one that died, `age` seconds old."""
        self.worker = None
        self.early_deaths = self.early_deaths + 1 if age < YOUNG_SECONDS else 0
        pause = 0.25 * 2**self.early_deaths if self.early_deaths > 1 else 0.0
        self.next_start = time.monotonic() + min(pause, MAX_PAUSE_SECONDS)


class Supervisor:
    """Runs the workers."""

    def __init__(self, settings: Settings, sockets: Sequence[socket.socket]) -> None:
        """Starts nothing yet.

        Args:
            settings: for every worker.
            sockets: that are listened on.
        """
        self._settings, self._sockets = settings, sockets
        self._slots = [Slot(index) for index in range(settings.workers)]
        self._ever_up = False
        self._signals = self._passed_on = 0
        self._signal = signal.SIGTERM
        self._log = structlog.get_logger(component="supervisor")

    def run(self) -> None:
        """Runs until a signal; then every worker ends as a single process does.

        Raises:
            InvalidInputError: the temporary folder's path is too long for a socket's.
            SystemExit: the first worker's status, where none could start.
        """
        folder = WorkerFolder.create()
        table = WorkerTable.create(self._settings.workers)
        old = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        balancer = Balancer(self._sockets)
        try:
            status = self._supervise(folder.path, table, balancer)
        finally:
            balancer.close()
            self._kill()
            folder.remove()
            table.close()
            for number, handler in old.items():
                signal.signal(number, handler)
        if status:
            raise SystemExit(status)

    def _supervise(self, folder: Path | None, table: WorkerTable, balancer: Balancer) -> int:
        looked = 0.0
        stop_at = deadline = float("inf")
        while True:
            now = time.monotonic()
            if now - looked >= TICK_SECONDS:
                looked = now
                status = self._look_at_all(folder, table)
                if status is not None:
                    return status
            alive = self._alive()
            if self._signals > self._passed_on:
                if not self._passed_on:
                    stop_at = now + self._settings.drain_seconds
                    deadline = stop_at + self._settings.shutdown_seconds + GRACE_SECONDS
                else:
                    stop_at = min(stop_at, now)
                self._pass_on(alive)
            if now >= stop_at:
                stop_at = float("inf")
                balancer.stop(alive)
                for worker in alive:
                    worker.finish()
            if self._signals and not alive:
                return 0
            if now >= deadline:
                pids = [worker.process.pid for worker in alive]
                self._log.error("workers did not end in time", pids=pids)
                return 0
            balancer.wait(alive, TICK_SECONDS)

    def _alive(self) -> list[WorkerProcess]:
        return [slot.worker for slot in self._slots if slot.worker is not None]

    def _look_at_all(self, folder: Path | None, table: WorkerTable) -> int | None:
        """Replaces who has died; the status to end with where none has ever answered."""
        for slot in self._slots:
            status = self._look(slot, table)
            if status is not None and not self._ever_up and not self._signals:
                return status or 1
            if slot.worker is None and not self._signals and time.monotonic() >= slot.next_start:
                self._start(slot, folder, table)
                if slot.worker is None and not self._ever_up:
                    return START_FAILED
        return None

    def _start(self, slot: Slot, folder: Path | None, table: WorkerTable) -> None:
        table.set_state(slot.index, State.STARTING, 0)
        try:
            worker = WorkerProcess(slot.index, self._settings, folder, table)
        except OSError as error:  # no process, descriptor or memory left: the others go on
            self._log.error("worker not started", worker=slot.index, problem=str(error))
            slot.next_start = time.monotonic() + MAX_PAUSE_SECONDS
            table.set_state(slot.index, State.ABSENT, 0)
            return
        slot.worker = worker
        table.set_state(slot.index, State.STARTING, worker.process.pid)
        self._log.info("worker started", worker=slot.index, pid=worker.process.pid)

    def _look(self, slot: Slot, table: WorkerTable) -> int | None:
        """The status of a worker that has died, None of one that lives or is not started."""
        worker = slot.worker
        if worker is None:
            return None
        status = worker.process.poll()
        if status is None:
            if worker.is_up and table.state(slot.index) is State.STARTING:
                self._ever_up = True
                table.set_state(slot.index, State.ANSWERING, worker.process.pid)
                self._log.info("worker answers", worker=slot.index, pid=worker.process.pid)
            if worker.is_leaving() and not self._signals:
                worker.finish()
            return None
        worker.close()
        table.set_state(slot.index, State.ABSENT, 0)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        table.set_ended_seconds(spent.ru_utime + spent.ru_stime)
        slot.vacate(time.monotonic() - worker.started)
        if not self._signals:
            pid = worker.process.pid
            self._log.error("worker died", worker=slot.index, pid=pid, status=status)
            table.count_restart(stalled=worker.was_ended)
        return status

    def _pass_on(self, alive: Sequence[WorkerProcess]) -> None:
        """Gives the workers the latest signal: who interrupts again does not want to wait."""
        self._passed_on = self._signals
        for worker in alive:
            worker.process.send_signal(self._signal)

    def _kill(self) -> None:
        """Ends whoever is left."""
        for worker in self._alive():
            worker.process.kill()
            worker.process.wait()
            worker.close()

    def _note(self, number: int, frame: types.FrameType | None) -> None:  # noqa: ARG002
        self._signal = signal.Signals(number)
        self._signals += 1
