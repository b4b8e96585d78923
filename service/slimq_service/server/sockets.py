"""The listening sockets, which are bound before anything else is started."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from slimq.core.errors import InvalidInputError
from slimq_service.settings import Settings

BACKLOG = 2048
"""Connections queued by the system while the process is busy or starting."""


def bind(host: str, port: int) -> socket.socket:
    """Opens a listening socket; clients can connect as soon as they know the port.

    Raises:
        InvalidInputError: the address cannot be used.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(BACKLOG)
        except OSError:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:  # UnicodeError: not a valid IDNA name
        received = f"{host}:{port} ({getattr(error, 'strerror', None) or error})"
        raise InvalidInputError("host and port", "a free local address", received) from error
    bound.set_inheritable(True)
    return bound


def listen(
    settings: Settings, opened: contextlib.ExitStack
) -> tuple[list[socket.socket], Settings]:
    """Opens the listening sockets, that of the admin port last; fills in that port in the settings.

    Args:
        settings: the addresses.
        opened: closes the sockets at the end.

    Raises:
        InvalidInputError: an address cannot be used, or the ports are equal.
    """
    sockets = [opened.enter_context(bind(settings.host, settings.port))]
    if settings.admin_port is None:
        return sockets, settings
    sockets.append(opened.enter_context(bind(settings.admin_host, settings.admin_port)))
    port, admin_port = (bound.getsockname()[1] for bound in sockets)
    if port == admin_port:  # at different addresses
        raise InvalidInputError("admin port", f"a port other than {port}", str(admin_port))
    return sockets, settings.model_copy(update={"admin_port": admin_port})


def url_of(bound: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bind_unix(path: Path) -> socket.socket:
    """Opens a listening Unix socket; replaces a stale one."""
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(path))
    bound.listen(BACKLOG)
    return bound
