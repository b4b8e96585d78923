"""Accepts connections for all workers, and hands each to the one that has the fewest.

Workers that share a listening socket take what they are quick to see: of a handful of connections
that stay open, nearly all end up with one. Here each connection goes by number, none goes to a
worker that is known to be stuck, and nothing but this holds the listening sockets, so that closing
them is one step. See docs/decisions.md for what that costs.
"""

from __future__ import annotations

import itertools
import select
import socket
import time
from collections import deque
from collections.abc import Iterable, Sequence

import structlog

from slimq_service.server.closing_listeners import accept_waiting, refuse_new
from slimq_service.server.supervision.worker_process import WorkerProcess

MAX_AT_ONCE = 64
"""Connections that are accepted before anything else is looked at."""
LATE_SECONDS = 0.75
"""A worker that was silent for so long gets no connection while there is another."""
NO_FILE_SECONDS = 0.05
"""Pause where a connection waits and cannot be accepted: no descriptor is free."""
STOP_SECONDS = 5.0
"""How long workers have to take the last connections over."""
RETRY_SECONDS = 0.005


def _rank(worker: WorkerProcess, turn: int) -> tuple[bool, int, bool, int]:
    """The lowest is next: the least loaded of those that are not late, from the turn's on."""
    return worker.silent_seconds >= LATE_SECONDS, worker.load, worker.index < turn, worker.index


class Balancer:
    """Assigns each connection to a worker."""

    def __init__(self, listeners: Iterable[socket.socket]) -> None:
        """Accepts nothing yet; the listening sockets belong to this from now on."""
        self._listeners = list(listeners)
        for listener in self._listeners:
            listener.settimeout(0)
        self._held: deque[socket.socket] = deque()
        self._turn = 0

    def wait(self, workers: Sequence[WorkerProcess], seconds: float) -> None:
        """Assigns what comes and hears what workers say, once something comes or time is up."""
        ready = self._poll(workers, seconds)
        for worker in workers:
            if worker.channel.fileno() in ready:
                worker.hear()
        for listener in self._listeners:
            if listener.fileno() in ready:
                count = 0
                for connection in itertools.islice(accept_waiting(listener), MAX_AT_ONCE):
                    self._held.append(connection)
                    self._assign(workers)
                    count += 1
                if not count:
                    time.sleep(NO_FILE_SECONDS)
        self._assign(workers)

    def take_back(self, worker: WorkerProcess) -> None:
        """Has others answer what a worker was sent and has not taken over."""
        self._held.extend(worker.take_back())

    def stop(self, workers: Sequence[WorkerProcess]) -> None:
        """Accepts what waits, and closes the listening sockets."""
        seconds = max(map(refuse_new, self._listeners), default=0.0)
        if seconds:
            time.sleep(seconds)
        for listener in self._listeners:
            self._held.extend(accept_waiting(listener))
            listener.close()
        self._listeners = []
        deadline = time.monotonic() + STOP_SECONDS
        while self._held and time.monotonic() < deadline:
            self._assign(workers)
            if self._held:
                time.sleep(RETRY_SECONDS)
        if self._held:
            log = structlog.get_logger(component="supervisor")
            log.error("connections that no worker takes", count=len(self._held))

    def close(self) -> None:
        """Closes what was accepted and not assigned, and whatever still listens."""
        for one in (*self._held, *self._listeners):
            one.close()

    def _poll(self, workers: Sequence[WorkerProcess], seconds: float) -> set[int]:
        """Descriptors of sockets that something has come by."""
        poll = select.poll()
        if not self._held and any(worker.takes() for worker in workers):
            for listener in self._listeners:
                poll.register(listener, select.POLLIN)
        for worker in workers:
            poll.register(worker.channel, select.POLLIN)
        pause = RETRY_SECONDS if self._held else seconds
        return {descriptor for descriptor, _ in poll.poll(pause * 1000)}

    def _assign(self, workers: Sequence[WorkerProcess]) -> None:
        """Sends on what is held, as far as workers take it."""
        while self._held:
            able = [worker for worker in workers if worker.takes()]
            while able:
                self._turn += 1
                worker = min(able, key=lambda one: _rank(one, self._turn % len(workers)))
                if worker.send(self._held[0]):
                    break
                able.remove(worker)
            else:
                return
            self._held.popleft().close()
