"""A worker as its supervisor sees it: a process, what it is told, and what it is handed."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, cast

from slimq_service.http.worker_table import WorkerTable
from slimq_service.server.logs import current_level
from slimq_service.server.orders import UP, Orders, receive_connection, send_connection
from slimq_service.settings import Settings

STDERR = 2
MAX_UNTAKEN = 64
"""Connections that wait for a worker to take them over."""


class WorkerProcess:
    """A process; its orders stay open as long as the supervisor lives.

    Attributes:
        index: its place.
        process: itself.
        started: when, by `time.monotonic`.
        is_up: whether it has said that it answers.
        is_stalled: whether it was seen to answer no longer.
        was_ended: whether it was killed for that.
        silent_seconds: since its event loop was last seen to go round.
    """

    def __init__(
        self, index: int, settings: Settings, folder: Path | None, table: WorkerTable
    ) -> None:
        """Starts it.

        Raises:
            OSError: no process, descriptor or memory is left.
        """
        self.index, self._table = index, table
        self._channel, self._theirs = socket.socketpair()
        descriptor = self._theirs.fileno()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "slimq_service.server.worker"],
                stdin=subprocess.PIPE,
                stdout=STDERR,  # what libraries print is no result of the command
                pass_fds=[descriptor, table.descriptor],
                start_new_session=True,
            )
        except OSError:
            self._channel.close()
            self._theirs.close()
            raise
        for end in (self._channel, self._theirs):
            end.settimeout(0)
        self._orders = cast("IO[bytes]", self.process.stdin)
        path = None if folder is None else str(folder)
        level = current_level()
        orders = Orders(settings.reveal(), descriptor, table.descriptor, path, index, level)
        with contextlib.suppress(BrokenPipeError):  # it died; that is seen in a moment
            self._orders.write(orders.encode())
            self._orders.flush()
        self.started = time.monotonic()
        self.is_up = self.is_stalled = self.was_ended = False
        self.silent_seconds = self._heartbeats = 0.0
        self._sent = 0
        self._gets_more = True

    @property
    def channel(self) -> socket.socket:
        """What says that it answers."""
        return self._channel

    @property
    def load(self) -> int:
        """Connections that it has, with those that it has yet to take over."""
        return self._sent - self._table.closed(self.index)

    def takes(self) -> bool:
        """Whether it may be sent a connection."""
        if not self.is_up or self.is_stalled or not self._gets_more:
            return False
        return self._sent - self._table.accepted(self.index) < MAX_UNTAKEN

    def watch(self, seconds: float) -> None:
        """Looks whether its event loop has gone round in the seconds since the last look."""
        before, self._heartbeats = self._heartbeats, self._table.heartbeats(self.index)
        self.silent_seconds = self.silent_seconds + seconds if self._heartbeats == before else 0.0

    def end(self) -> None:
        """Kills a process that does not answer."""
        self.was_ended = True
        self.process.kill()

    def hear(self) -> None:
        """Reads whether it answers."""
        with contextlib.suppress(BlockingIOError):
            self.is_up = self._channel.recv(len(UP)) == UP

    def send(self, connection: socket.socket) -> bool:
        """Sends it a connection; whether it could be."""
        try:
            send_connection(self._channel, connection)
        except OSError:  # there is no room for it
            return False
        self._sent += 1
        return True

    def take_back(self) -> list[socket.socket]:
        """The connections that it was sent and has not taken over; each is its or ours, never both.

        They wait in the socket that it reads from, which is still open here.
        """
        found = []
        with contextlib.suppress(OSError):  # there are no more
            while True:
                connection = receive_connection(self._theirs)
                if connection is None:
                    break
                found.append(connection)
        self._sent -= len(found)
        return found

    def finish(self) -> None:
        """Tells it that no more connections come."""
        if self._gets_more:
            self._gets_more = False
            with contextlib.suppress(OSError):
                self._channel.shutdown(socket.SHUT_WR)

    def is_draining(self) -> bool:
        """Whether it was told to end by somebody else."""
        return self._table.is_draining(self.index)

    def close(self) -> None:
        """Leaves nothing open behind a process that has ended."""
        with contextlib.suppress(BrokenPipeError):
            self._orders.close()
        self._channel.close()
        self._theirs.close()
        self._gets_more = False
