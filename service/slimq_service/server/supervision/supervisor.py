"""Runs several workers: passes them connections, monitors them, and stops them together.

The folder for the workers' metrics and sockets is created before they start, and removed after
they have exited.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import time
import types
from collections.abc import Sequence

import structlog

from slimq_service.http.worker_table import WorkerTable
from slimq_service.operations.games import Player
from slimq_service.server.supervision.balancer import Balancer
from slimq_service.server.supervision.worker_folder import WorkerFolder
from slimq_service.server.supervision.worker_pool import WorkerPool
from slimq_service.settings import Settings

TICK_SECONDS = 0.1
GRACE_SECONDS = 5.0
"""Additional time for workers to exit before they are killed."""


class Supervisor:
    """Runs the workers."""

    def __init__(
        self, settings: Settings, sockets: Sequence[socket.socket], player: Player = ()
    ) -> None:
        """Starts nothing yet.

        Args:
            settings: of every worker.
            sockets: the listening sockets.
            player: the command of every worker that plays games.
        """
        self._settings, self._sockets, self._player = settings, sockets, player
        self._signals = self._passed_on = 0
        self._signal = signal.SIGTERM

    def run(self) -> None:
        """Runs until a signal; then the workers shut down gracefully.

        Raises:
            InvalidInputError: the temporary folder's path is too long for a socket.
            SystemExit: a worker's exit status, if none has ever become ready.
        """
        with contextlib.ExitStack() as stack:
            folder = WorkerFolder.create()
            stack.callback(folder.remove)
            table = WorkerTable.create(self._settings.workers)
            stack.callback(table.close)
            for number in (signal.SIGTERM, signal.SIGINT):
                stack.callback(signal.signal, number, signal.signal(number, self._note))
            balancer = Balancer(self._sockets)
            stack.callback(balancer.close)
            pool = WorkerPool(self._settings, folder.path, table, balancer, self._player)
            stack.callback(pool.kill)
            status = self._supervise(pool, balancer)
        if status:
            raise SystemExit(status)

    def _supervise(self, pool: WorkerPool, balancer: Balancer) -> int:
        """Runs until all workers have exited, or the deadline; returns the exit status."""
        next_check, stop_at, deadline = 0.0, float("inf"), float("inf")
        while True:
            now = time.monotonic()
            if now >= next_check:
                next_check = now + TICK_SECONDS
                status = pool.check()
                if status is not None:
                    return status
            if self._signals > self._passed_on:  # a second signal skips draining
                if not self._passed_on:
                    stop_at = now + self._settings.drain_seconds
                    deadline = stop_at + self._settings.shutdown_seconds + GRACE_SECONDS
                else:
                    stop_at = min(stop_at, now)
                self._passed_on = self._signals
                pool.signal(self._signal)
            if now >= stop_at:
                stop_at = float("inf")
                balancer.stop(pool.alive())
                pool.finish()
            alive = pool.alive()
            if self._signals and not alive:
                return 0
            if now >= deadline:
                pids = [worker.process.pid for worker in alive]
                log = structlog.get_logger(component="supervisor")
                log.error("workers did not exit in time", pids=pids)
                return 0
            balancer.wait(alive, TICK_SECONDS)

    def _note(self, number: int, frame: types.FrameType | None) -> None:  # noqa: ARG002
        self._signal = signal.Signals(number)
        self._signals += 1
