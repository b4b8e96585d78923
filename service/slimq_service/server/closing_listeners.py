"""Stops listening without a connection that was accepted by the system being reset.

When a listening socket is closed, the system resets the connections that wait to be accepted, whose
clients may have sent a request already. So the socket takes no new ones first, then those that wait
are accepted, and then it is closed. On Linux a filter drops requests for new connections meanwhile:
their clients try again after a second, and are refused. Elsewhere there is no such thing, and one
that comes between the last look and the end is reset.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys
from collections.abc import Iterator

HANDSHAKE_SECONDS = 0.1
"""How long a client has to complete a handshake that it has begun."""
SO_ATTACH_FILTER = 26
"""Of `asm-generic/socket.h`; Python has no name for it."""
FLAGS_BYTE, SYN = 13, 0x02
"""Where a segment's flags are, and the one of a request for a connection."""
PROGRAM = (
    (0x30, 0, 0, FLAGS_BYTE),  # load the flags
    (0x45, 0, 1, SYN),  # where SYN is set, go on with the next, else skip it
    (0x06, 0, 0, 0),  # keep nothing
    (0x06, 0, 0, 0xFFFF_FFFF),  # keep all
)
"""Classic BPF, which any process may attach to its own sockets."""


def refuse_new(listener: socket.socket) -> float:
    """Has a listening socket take no more connections, as far as the system can do that.

    Returns:
        Seconds after which no more can come to wait.
    """
    if listener.family == getattr(socket, "AF_UNIX", None):
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RD)
        return 0.0
    if sys.platform != "linux":
        return 0.0
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in PROGRAM))
    program = struct.pack("HL", len(PROGRAM), ctypes.addressof(code))
    try:
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    except OSError:  # a sandbox that has no filters
        return 0.0
    return HANDSHAKE_SECONDS


def accept_waiting(listener: socket.socket) -> Iterator[socket.socket]:
    """The connections that wait, until there are none; the socket must not block."""
    while True:
        try:
            connection, _ = listener.accept()
        except ConnectionAbortedError:
            continue
        except OSError:  # there is none, or a Unix socket that is shut down has no more
            return
        yield connection
