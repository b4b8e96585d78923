"""The workers of a service: started, watched, replaced.

One that dies loses the requests that it was answering. It is replaced at once, and later and later
where it dies young again. One that no longer answers is reported, gets no connections, and is
killed and replaced if that lasts. One that has never answered, before any other has, ends the
service: what is wrong with it is wrong with all.
"""

from __future__ import annotations

import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from slimq_service.http.worker_table import State, WorkerTable
from slimq_service.server.orders import START_FAILED
from slimq_service.server.supervision.balancer import Balancer
from slimq_service.server.supervision.worker_process import WorkerProcess
from slimq_service.settings import Settings

YOUNG_SECONDS = 10.0
"""A worker that dies within this time of its start is started again after a pause."""
MAX_PAUSE_SECONDS = 10.0
STALL_SECONDS = 2.0
"""A worker that was silent for so long is reported, and gets no connections."""
MAX_STEP_SECONDS = 0.5
"""The most that the time between two looks counts as a worker's silence: where it is longer, the
supervisor did not run itself, as when the machine was suspended."""


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


class WorkerPool:
    """As many workers as the settings ask for, as far as they can be had."""

    def __init__(
        self, settings: Settings, folder: Path | None, table: WorkerTable, balancer: Balancer
    ) -> None:
        """Starts nothing yet.

        Args:
            settings: for every worker.
            folder: of the workers' files, None where there is none.
            table: of the workers' states.
            balancer: has others answer what a worker did not take over.
        """
        self._settings, self._folder, self._balancer = settings, folder, balancer
        self._table = table
        self._slots = [Slot(index) for index in range(settings.workers)]
        self._looked = time.monotonic()
        self._ever_up = self._is_ending = False
        self._log = structlog.get_logger(component="supervisor")

    def alive(self) -> list[WorkerProcess]:
        """The workers that there are."""
        return [slot.worker for slot in self._slots if slot.worker is not None]

    def look(self) -> int | None:
        """Looks after every worker; the status to end with where none has ever answered."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, MAX_STEP_SECONDS), now
        for slot in self._slots:
            if slot.worker is not None:
                slot.worker.watch(passed)
                status = slot.worker.process.poll()
                if status is None:
                    self._judge(slot.worker)
                else:
                    self._bury(slot, slot.worker, status)
                    if not self._ever_up and not self._is_ending:
                        return status or 1
            if slot.worker is None and not self._is_ending and now >= slot.next_start:
                self._start(slot)
                if slot.worker is None and not self._ever_up:
                    return START_FAILED
        return None

    def signal(self, number: signal.Signals) -> None:
        """Sends every worker a signal to end; none is replaced any more."""
        self._is_ending = True
        for worker in self.alive():
            worker.process.send_signal(number)

    def finish(self) -> None:
        """Tells every worker that no more connections come."""
        for worker in self.alive():
            worker.finish()

    def kill(self) -> None:
        """Ends whoever is left."""
        for worker in self.alive():
            worker.process.kill()
            worker.process.wait()
            worker.close()

    def _start(self, slot: Slot) -> None:
        self._table.set_state(slot.index, State.STARTING, 0)
        try:
            worker = WorkerProcess(slot.index, self._settings, self._folder, self._table)
        except OSError as error:  # no process, descriptor or memory left: the others go on
            self._log.error("worker not started", worker=slot.index, problem=str(error))
            slot.next_start = time.monotonic() + MAX_PAUSE_SECONDS
            self._table.set_state(slot.index, State.ABSENT, 0)
            return
        slot.worker = worker
        self._set(worker, State.STARTING)
        self._log.info("worker started", worker=slot.index, pid=worker.process.pid)

    def _judge(self, worker: WorkerProcess) -> None:
        """Says that a worker answers, does not, or does again; ends one that does not for long."""
        index, pid = worker.index, worker.process.pid
        if worker.is_up and self._table.state(index) is State.STARTING:
            self._ever_up = True
            self._set(worker, State.ANSWERING)
            self._log.info("worker answers", worker=index, pid=pid)
        if worker.is_draining() and not self._is_ending:
            worker.finish()
        silent, limit = round(worker.silent_seconds, 1), self._settings.worker_stall_seconds
        if worker.was_ended or not worker.is_up:
            return
        is_stalled = silent >= min(STALL_SECONDS, limit)
        if is_stalled and not worker.is_stalled:
            self._set(worker, State.STALLED)
            self._balancer.take_back(worker)
            self._log.error("worker does not answer", worker=index, pid=pid, seconds=silent)
        elif worker.is_stalled and not is_stalled:
            self._set(worker, State.ANSWERING)
            self._log.warning("worker answers again", worker=index, pid=pid)
        worker.is_stalled = is_stalled
        if silent >= limit:
            worker.end()

    def _bury(self, slot: Slot, worker: WorkerProcess, status: int) -> None:
        """Leaves nothing behind of a worker that has died, and says so."""
        self._balancer.take_back(worker)
        worker.close()
        self._table.set_state(slot.index, State.ABSENT, 0)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._table.set_exited_seconds(spent.ru_utime + spent.ru_stime)
        slot.vacate(time.monotonic() - worker.started)
        if not self._is_ending:
            pid = worker.process.pid
            self._log.error("worker died", worker=slot.index, pid=pid, status=status)
            self._table.count_restart(stalled=worker.was_ended)

    def _set(self, worker: WorkerProcess, state: State) -> None:
        self._table.set_state(worker.index, state, worker.process.pid)
