"""A worker process and the supervisor's channel to it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, cast

from slimq_service.http.worker_table import WorkerTable
from slimq_service.operations.games import Player
from slimq_service.server.logs import current_level
from slimq_service.server.worker_ipc import READY, WorkerConfig, receive_connection, send_connection
from slimq_service.settings import Settings

STDERR = 2
MAX_UNACCEPTED = 64
"""Connections sent to a worker that it has not accepted yet."""


class WorkerProcess:
    """A worker process; its standard input stays open as long as the supervisor lives.

    Attributes:
        index: the number of the worker.
        process: the process.
        started: its start time, by `time.monotonic`.
        is_ready: whether it has reported that it is ready.
        is_stalled: whether it was found stalled.
        was_killed: whether it was killed because of that.
        silent_seconds: time since its last heartbeat.
    """

    def __init__(
        self,
        index: int,
        settings: Settings,
        folder: Path | None,
        table: WorkerTable,
        player: Player = (),
    ) -> None:
        """Starts the process.

        Raises:
            OSError: the system is out of processes, descriptors or memory.
        """
        self.index, self._table = index, table
        self._channel, self._theirs = socket.socketpair()
        descriptor = self._theirs.fileno()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "slimq_service.server.worker"],
                stdin=subprocess.PIPE,
                stdout=STDERR,  # stdout is for results of the command
                pass_fds=[descriptor, table.descriptor],
                start_new_session=True,
            )
        except OSError:
            self._channel.close()
            self._theirs.close()
            raise
        for end in (self._channel, self._theirs):
            end.settimeout(0)
        self._stdin = cast("IO[bytes]", self.process.stdin)
        path = None if folder is None else str(folder)
        level = current_level()
        config = WorkerConfig(
            settings.reveal(), descriptor, table.descriptor, path, index, level, player
        )
        with contextlib.suppress(BrokenPipeError):  # it died, which the next check notices
            self._stdin.write(config.encode())
            self._stdin.flush()
        self.started = time.monotonic()
        self.is_ready = self.is_stalled = self.was_killed = False
        self.silent_seconds = self._heartbeats = 0.0
        self._sent = 0
        self._gets_more = True

    @property
    def channel(self) -> socket.socket:
        """The supervisor's end of the channel."""
        return self._channel

    @property
    def load(self) -> int:
        """Its number of open connections, including those that it has not accepted yet."""
        return self._sent - self._table.closed(self.index)

    def can_accept(self) -> bool:
        """Whether a connection may be sent to it."""
        if not self.is_ready or self.is_stalled or not self._gets_more:
            return False
        return self._sent - self._table.accepted(self.index) < MAX_UNACCEPTED

    def watch(self, seconds: float) -> None:
        """Checks for a heartbeat since the last check, `seconds` ago."""
        before, self._heartbeats = self._heartbeats, self._table.heartbeats(self.index)
        self.silent_seconds = self.silent_seconds + seconds if self._heartbeats == before else 0.0

    def kill(self) -> None:
        """Kills a stalled process."""
        self.was_killed = True
        self.process.kill()

    def read_message(self) -> None:
        """Reads whether it is ready."""
        with contextlib.suppress(BlockingIOError):
            self.is_ready = self._channel.recv(len(READY)) == READY

    def send(self, connection: socket.socket) -> bool:
        """Sends a connection to it; returns whether that succeeded."""
        try:
            send_connection(self._channel, connection)
        except OSError:  # the channel is full or closed
            return False
        self._sent += 1
        return True

    def reclaim(self) -> list[socket.socket]:
        """Takes back connections that it has not accepted; none is handled by both.

        They are queued in the socket that it reads from, which is still open here.
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
        """Tells it that there are no more connections."""
        if self._gets_more:
            self._gets_more = False
            with contextlib.suppress(OSError):
                self._channel.shutdown(socket.SHUT_WR)

    def is_draining(self) -> bool:
        """Whether it is shutting down on a signal not sent by the supervisor."""
        return self._table.is_draining(self.index)

    def close(self) -> None:
        """Closes the channel to a process that has exited."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        self._channel.close()
        self._theirs.close()
        self._gets_more = False
