"""What the supervisor and its workers tell and send each other."""

from __future__ import annotations

import errno
import json
import os
import socket
from dataclasses import asdict, dataclass

START_FAILED = 3
"""The exit status of a start that failed, as uvicorn's own command has it."""
UP = b"u"
"""What a worker sends once it answers."""
_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


@dataclass(frozen=True)
class Orders:
    """What a worker is told.

    Attributes:
        settings: as JSON, with what is secret.
        channel: descriptor of the socket that connections come by; where it ends, no more come.
        table: descriptor of the table of the workers' states.
        folder: of the workers' own sockets and metrics, None where there is none.
        index: which worker it is.
        level: from which records are logged.
    """

    settings: str
    channel: int
    table: int
    folder: str | None
    index: int
    level: int

    def encode(self) -> bytes:
        """One line."""
        return json.dumps(asdict(self)).encode() + b"\n"


def send_connection(channel: socket.socket, connection: socket.socket) -> None:
    """Sends a connection to another process.

    Raises:
        OSError: it takes none now.
    """
    family = bytes((connection.family,))  # which spares the other side to ask for it
    socket.send_fds(channel, [family], [connection.fileno()])


def receive_connection(channel: socket.socket) -> socket.socket | None:
    """The next connection that was sent, None where no more come.

    Raises:
        BlockingIOError: there is none now.
        OSError: there is one, and the process may open no more files: it is lost.
    """
    family, descriptors, _, _ = socket.recv_fds(channel, 1, 1, _FLAGS)
    if not family:
        return None
    if not descriptors:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return socket.socket(family[0], socket.SOCK_STREAM, 0, descriptors[0])
