"""Closes listening sockets without resetting connections in the backlog.

When a listening socket is closed, the system resets the connections in its backlog, whose clients
may have sent a request already. So the socket first stops accepting new ones, then the backlog is
accepted, and then the socket is closed. On Linux, a filter drops SYN segments meanwhile: clients
retry after a second, and are refused. Other systems have no such filter, and a connection that
arrives between the last accept and the close is reset.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys
from collections.abc import Iterator

HANDSHAKE_SECONDS = 0.1
"""Timeout for clients to complete a TCP handshake in progress."""
SO_ATTACH_FILTER = 26
"""From `asm-generic/socket.h`; Python does not define it."""
FLAGS_BYTE, SYN = 13, 0x02
"""Offset of the flags in a TCP segment, and the flag of a connection request."""
FILTER = (
    (0x30, 0, 0, FLAGS_BYTE),  # load the flags
    (0x45, 0, 1, SYN),  # if SYN is set, go to the next instruction, else skip it
    (0x06, 0, 0, 0),  # drop the segment
    (0x06, 0, 0, 0xFFFF_FFFF),  # keep the segment
)
"""Classic BPF, which any process may attach to its own sockets."""


def refuse_new(listener: socket.socket) -> float:
    """Stops a listening socket from accepting new connections, if the system supports that.

    Returns:
        Seconds after which no more connections can reach the backlog.
    """
    if listener.family == getattr(socket, "AF_UNIX", None):
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RD)
        return 0.0
    if sys.platform != "linux":
        return 0.0
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in FILTER))
    program = struct.pack("HL", len(FILTER), ctypes.addressof(code))
    try:
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    except OSError:  # a sandbox without socket filters
        return 0.0
    return HANDSHAKE_SECONDS


def accept_waiting(listener: socket.socket) -> Iterator[socket.socket]:
    """Accepts the connections in the backlog; the socket must be non-blocking."""
    while True:
        try:
            connection, _ = listener.accept()
        except ConnectionAbortedError:
            continue
        except OSError:  # the backlog is empty, or a Unix socket was shut down
            return
        yield connection
