"""Communication between the supervisor and its workers."""

from __future__ import annotations

import errno
import json
import os
import socket
from dataclasses import asdict, dataclass

from slimq_service.operations.games import Player

START_FAILED = 3
"""Exit status of a failed start, the same as that of uvicorn's command."""
READY = b"u"
"""Sent by a worker once it is ready."""
_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


@dataclass(frozen=True)
class WorkerConfig:
    """Configuration of a worker.

    Attributes:
        settings: as JSON, including secrets.
        channel: descriptor of the socket that passes connections; closed if there are no more.
        table: descriptor of the table of the workers' states.
        folder: of the workers' sockets and metrics, None if there is none.
        index: the number of the worker.
        level: the log level.
        player: the command that plays games.
    """

    settings: str
    channel: int
    table: int
    folder: str | None
    index: int
    level: int
    player: Player = ()

    def encode(self) -> bytes:
        """Serializes it as one line."""
        return json.dumps(asdict(self)).encode() + b"\n"


def send_connection(channel: socket.socket, connection: socket.socket) -> None:
    """Sends a connection to another process.

    Raises:
        OSError: the channel is full or closed.
    """
    family = bytes((connection.family,))  # saves the receiver a system call
    socket.send_fds(channel, [family], [connection.fileno()])


def receive_connection(channel: socket.socket) -> socket.socket | None:
    """Receives the next connection, None if there are no more.

    Raises:
        BlockingIOError: none is pending.
        OSError: the process is out of descriptors, and the connection is lost.
    """
    family, descriptors, _, _ = socket.recv_fds(channel, 1, 1, _FLAGS)
    if not family:
        return None
    if not descriptors:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return socket.socket(family[0], socket.SOCK_STREAM, 0, descriptors[0])
