"""The workers of a service: starts, monitors and restarts them.

If a worker dies, the requests in progress are lost. It is restarted at once, and with exponential
backoff if it dies early again. A stalled worker is reported, gets no connections, and is killed and
restarted if it does not recover. If a worker dies before any has become ready, the service exits,
since the others would fail, too.
"""

from __future__ import annotations

import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from slimq_service.http.worker_table import State, WorkerTable
from slimq_service.operations.games import Player
from slimq_service.server.supervision.balancer import Balancer
from slimq_service.server.supervision.worker_process import WorkerProcess
from slimq_service.server.worker_ipc import START_FAILED
from slimq_service.settings import Settings

EARLY_DEATH_SECONDS = 10.0
"""Time after its start within which a worker's death counts as early."""
MAX_BACKOFF_SECONDS = 10.0
STALL_SECONDS = 2.0
"""Time without a heartbeat after which a worker is stalled."""
MAX_STALL_STEP_SECONDS = 0.5
"""Maximum time between two checks that counts as stalled: if it is longer, the supervisor itself
was not running, for example because the machine was suspended."""


@dataclass
class Slot:
    """The place of a worker and of its successors."""

    index: int
    worker: WorkerProcess | None = None
    early_deaths: int = 0
    next_start: float = 0.0

    def schedule_restart(self, age: float) -> None:
        """Schedules the restart of a worker that died at an age of `age` seconds."""
        self.worker = None
        self.early_deaths = self.early_deaths + 1 if age < EARLY_DEATH_SECONDS else 0
        backoff = 0.25 * 2**self.early_deaths if self.early_deaths > 1 else 0.0
        self.next_start = time.monotonic() + min(backoff, MAX_BACKOFF_SECONDS)


class WorkerPool:
    """The workers, as many as the settings say if the system permits."""

    def __init__(
        self,
        settings: Settings,
        folder: Path | None,
        table: WorkerTable,
        balancer: Balancer,
        player: Player = (),
    ) -> None:
        """Starts nothing yet.

        Args:
            settings: of every worker.
            folder: of the workers' files, None if there is none.
            table: of the workers' states.
            balancer: reassigns connections that a worker has not accepted.
            player: the command that plays games.
        """
        self._settings, self._folder, self._balancer = settings, folder, balancer
        self._table, self._player = table, player
        self._slots = [Slot(index) for index in range(settings.workers)]
        self._checked = time.monotonic()
        self._ever_ready = self._is_ending = False
        self._log = structlog.get_logger(component="supervisor")

    def alive(self) -> list[WorkerProcess]:
        """The live workers."""
        return [slot.worker for slot in self._slots if slot.worker is not None]

    def check(self) -> int | None:
        """Checks all workers; returns an exit status if none has ever become ready."""
        now = time.monotonic()
        passed, self._checked = min(now - self._checked, MAX_STALL_STEP_SECONDS), now
        for slot in self._slots:
            if slot.worker is not None:
                slot.worker.watch(passed)
                status = slot.worker.process.poll()
                if status is None:
                    self._update_state(slot.worker)
                else:
                    self._clean_up(slot, slot.worker, status)
                    if not self._ever_ready and not self._is_ending:
                        return status or 1
            if slot.worker is None and not self._is_ending and now >= slot.next_start:
                self._start(slot)
                if slot.worker is None and not self._ever_ready:
                    return START_FAILED
        return None

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to all workers, which are no longer restarted."""
        self._is_ending = True
        for worker in self.alive():
            worker.process.send_signal(number)

    def finish(self) -> None:
        """Tells all workers that there are no more connections."""
        for worker in self.alive():
            worker.finish()

    def kill(self) -> None:
        """Kills the remaining workers."""
        for worker in self.alive():
            worker.process.kill()
            worker.process.wait()
            worker.close()

    def _start(self, slot: Slot) -> None:
        self._table.set_state(slot.index, State.STARTING, 0)
        try:
            worker = WorkerProcess(
                slot.index, self._settings, self._folder, self._table, self._player
            )
        except OSError as error:  # out of processes, descriptors or memory: the others continue
            self._log.error("worker not started", worker=slot.index, problem=str(error))
            slot.next_start = time.monotonic() + MAX_BACKOFF_SECONDS
            self._table.set_state(slot.index, State.ABSENT, 0)
            return
        slot.worker = worker
        self._set(worker, State.STARTING)
        self._log.info("worker started", worker=slot.index, pid=worker.process.pid)

    def _update_state(self, worker: WorkerProcess) -> None:
        """Reports that a worker is ready, stalled or recovered; kills it if stalled too long."""
        index, pid = worker.index, worker.process.pid
        if worker.is_ready and self._table.state(index) is State.STARTING:
            self._ever_ready = True
            self._set(worker, State.ANSWERING)
            self._log.info("worker ready", worker=index, pid=pid)
        if worker.is_draining() and not self._is_ending:
            worker.finish()
        silent, limit = round(worker.silent_seconds, 1), self._settings.worker_stall_seconds
        if worker.was_killed or not worker.is_ready:
            return
        is_stalled = silent >= min(STALL_SECONDS, limit)
        if is_stalled and not worker.is_stalled:
            self._set(worker, State.STALLED)
            self._balancer.reclaim(worker)
            self._log.error("worker stalled", worker=index, pid=pid, seconds=silent)
        elif worker.is_stalled and not is_stalled:
            self._set(worker, State.ANSWERING)
            self._log.warning("worker recovered", worker=index, pid=pid)
        worker.is_stalled = is_stalled
        if silent >= limit:
            worker.kill()

    def _clean_up(self, slot: Slot, worker: WorkerProcess, status: int) -> None:
        """Cleans up after a worker that has exited, and reports it."""
        self._balancer.reclaim(worker)
        worker.close()
        self._table.set_state(slot.index, State.ABSENT, 0)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._table.set_exited_seconds(spent.ru_utime + spent.ru_stime)
        slot.schedule_restart(time.monotonic() - worker.started)
        if not self._is_ending:
            pid = worker.process.pid
            self._log.error("worker died", worker=slot.index, pid=pid, status=status)
            self._table.count_restart(stalled=worker.was_killed)

    def _set(self, worker: WorkerProcess, state: State) -> None:
        self._table.set_state(worker.index, state, worker.process.pid)
