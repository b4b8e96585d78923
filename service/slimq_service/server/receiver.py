"""Where a worker gets its connections: the supervisor accepts them, and sends their descriptors.

Beside that the worker tells the supervisor, by the table that they share, that its event loop goes
round and how many connections it has.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import structlog

from slimq_service.http.worker_table import WorkerTable
from slimq_service.server.orders import UP, receive_connection

HEARTBEAT_SECONDS = 0.25
MAX_AT_ONCE = 64
"""Connections that are accepted in one turn of the event loop."""


class ConnectionReceiver:
    """Takes connections over until there are no more to come.

    Attributes:
        ended: whether the supervisor sends no more, or has died.
    """

    def __init__(self, channel: socket.socket, table: WorkerTable, index: int) -> None:
        """Takes nothing yet.

        Args:
            channel: from the supervisor.
            table: of the workers' states.
            index: which worker this is.
        """
        channel.settimeout(0)
        self._channel, self._table, self._index = channel, table, index
        self._accepted = 0
        self._give: Callable[[socket.socket], None] = socket.socket.close
        self._count: Callable[[], int] = lambda: 0
        self.ended = False

    def heartbeat(self) -> None:
        """Tells the supervisor that the event loop goes round, now and again and again."""
        self._table.heartbeat(self._index)
        self.count()
        asyncio.get_running_loop().call_later(HEARTBEAT_SECONDS, self.heartbeat)

    def open(self, give: Callable[[socket.socket], None], count: Callable[[], int]) -> None:
        """Asks the supervisor for connections.

        Args:
            give: answers one.
            count: says how many are open.
        """
        self._give, self._count = give, count
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._receive)
        self._channel.send(UP)

    def drain(self) -> None:
        """Asks the supervisor for no more of them; `ended` says when all have come."""
        self._table.drain(self._index)

    def count(self) -> None:
        """Tells the supervisor how many are open."""
        self._table.count_connections(self._index, self._accepted, self._count())

    def _receive(self) -> None:
        for _ in range(MAX_AT_ONCE):
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
