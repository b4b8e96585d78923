"""Accepts connections for all workers, and passes each to the one with the fewest.

If workers shared a listening socket, the first to wake up would accept: of a few connections that
stay open, nearly all would end up at one worker. Here connections are balanced by number, stalled
workers get none, and only this process holds the listening sockets, so that they are closed in one
step. See docs/decisions.md for the cost.
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

MAX_ACCEPTS = 64
"""Connections accepted per listening socket before other events are handled."""
LATE_SECONDS = 0.75
"""Time without a heartbeat after which other workers are preferred."""
NO_DESCRIPTOR_SECONDS = 0.05
"""Pause if a pending connection cannot be accepted for lack of a descriptor."""
HANDOFF_SECONDS = 5.0
"""Timeout for passing the last connections to workers."""
RETRY_SECONDS = 0.005
"""Pause before connections that no worker could accept are offered again."""


def _rank(worker: WorkerProcess, turn: int) -> tuple[bool, int, bool, int]:
    """Sort key, lowest first: workers that are not late, then by load, then round robin."""
    return worker.silent_seconds >= LATE_SECONDS, worker.load, worker.index < turn, worker.index


class Balancer:
    """Assigns connections to workers."""

    def __init__(self, listeners: Iterable[socket.socket]) -> None:
        """Takes ownership of the listening sockets; accepts nothing yet."""
        self._listeners = list(listeners)
        for listener in self._listeners:
            listener.settimeout(0)
        self._unassigned: deque[socket.socket] = deque()
        self._turn = 0

    def wait(self, workers: Sequence[WorkerProcess], seconds: float) -> None:
        """Waits for connections and messages of workers, and handles them."""
        ready = self._poll(workers, seconds)
        for worker in workers:
            if worker.channel.fileno() in ready:
                worker.read_message()
        for listener in self._listeners:
            if listener.fileno() in ready:
                count = 0
                for connection in itertools.islice(accept_waiting(listener), MAX_ACCEPTS):
                    self._unassigned.append(connection)
                    self._assign(workers)
                    count += 1
                if not count:
                    time.sleep(NO_DESCRIPTOR_SECONDS)
        self._assign(workers)

    def reclaim(self, worker: WorkerProcess) -> None:
        """Reassigns the connections that a worker was sent and has not accepted."""
        self._unassigned.extend(worker.reclaim())

    def stop(self, workers: Sequence[WorkerProcess]) -> None:
        """Accepts pending connections, assigns them, and closes the listening sockets."""
        seconds = max(map(refuse_new, self._listeners), default=0.0)
        if seconds:
            time.sleep(seconds)
        for listener in self._listeners:
            self._unassigned.extend(accept_waiting(listener))
            listener.close()
        self._listeners = []
        deadline = time.monotonic() + HANDOFF_SECONDS
        while self._unassigned and time.monotonic() < deadline:
            self._assign(workers)
            if self._unassigned:
                time.sleep(RETRY_SECONDS)
        if self._unassigned:
            log = structlog.get_logger(component="supervisor")
            log.error("no worker accepts pending connections", count=len(self._unassigned))

    def close(self) -> None:
        """Closes unassigned connections, and listening sockets that are still open."""
        for one in (*self._unassigned, *self._listeners):
            one.close()

    def _poll(self, workers: Sequence[WorkerProcess], seconds: float) -> set[int]:
        """The descriptors that are ready to be read."""
        poll = select.poll()
        if not self._unassigned and any(worker.can_accept() for worker in workers):
            for listener in self._listeners:
                poll.register(listener, select.POLLIN)
        for worker in workers:
            poll.register(worker.channel, select.POLLIN)
        pause = RETRY_SECONDS if self._unassigned else seconds
        return {descriptor for descriptor, _ in poll.poll(pause * 1000)}

    def _assign(self, workers: Sequence[WorkerProcess]) -> None:
        """Sends unassigned connections to workers until none accepts."""
        while self._unassigned:
            able = [worker for worker in workers if worker.can_accept()]
            while able:
                self._turn += 1
                worker = min(able, key=lambda one: _rank(one, self._turn % len(workers)))
                if worker.send(self._unassigned[0]):
                    break
                able.remove(worker)
            else:
                return
            self._unassigned.popleft().close()
