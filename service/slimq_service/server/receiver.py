"""Receives a worker's connections, whose descriptors the supervisor sends.

It also reports heartbeats of the event loop and the number of connections to the supervisor, in
their shared table.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import structlog

from slimq_service.http.worker_table import WorkerTable
from slimq_service.server.worker_ipc import READY, receive_connection

HEARTBEAT_SECONDS = 0.25
MAX_ACCEPTS = 64
"""Connections accepted per iteration of the event loop."""


class ConnectionReceiver:
    """Accepts connections until there are no more.

    Attributes:
        ended: whether the supervisor sends no more, or has died.
    """

    def __init__(self, channel: socket.socket, table: WorkerTable, index: int) -> None:
        """Receives nothing yet.

        Args:
            channel: from the supervisor.
            table: of the workers' states.
            index: the number of this worker.
        """
        channel.settimeout(0)
        self._channel, self._table, self._index = channel, table, index
        self._accepted = 0
        self._give: Callable[[socket.socket], None] = socket.socket.close
        self._count: Callable[[], int] = lambda: 0
        self.ended = False

    def heartbeat(self) -> None:
        """Reports a heartbeat of the event loop, now and at regular intervals."""
        self._table.heartbeat(self._index)
        self.count()
        asyncio.get_running_loop().call_later(HEARTBEAT_SECONDS, self.heartbeat)

    def open(self, give: Callable[[socket.socket], None], count: Callable[[], int]) -> None:
        """Requests connections from the supervisor.

        Args:
            give: handles a connection.
            count: returns the number of open connections.
        """
        self._give, self._count = give, count
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._receive)
        self._channel.send(READY)

    def drain(self) -> None:
        """Requests no more connections; `ended` is set once all have been received."""
        self._table.drain(self._index)

    def count(self) -> None:
        """Reports the number of open connections."""
        self._table.count_connections(self._index, self._accepted, self._count())

    def _receive(self) -> None:
        for _ in range(MAX_ACCEPTS):
            try:
                connection = receive_connection(self._channel)
            except BlockingIOError:
                break
            except ConnectionError:  # the supervisor has died
                connection = None
            except OSError as error:
                self._accepted += 1
                structlog.get_logger(component="worker").error(
                    "connection lost", problem=str(error)
                )
                continue
            if connection is None:
                self.ended = True
                asyncio.get_running_loop().remove_reader(self._channel.fileno())
                break
            self._accepted += 1
            self._give(connection)
        self.count()
