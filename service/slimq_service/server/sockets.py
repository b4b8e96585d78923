"""The sockets that the service listens on, bound before anything else is started."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from slimq.core.errors import InvalidInputError
from slimq_service.settings import Settings

BACKLOG = 2048
"""Connections that wait while the process is busy or still starting."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, so that the port is known and whoever is told it can connect at once.

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
    except (OSError, UnicodeError) as error:  # the latter of a name that has no IDNA form
        received = f"{host}:{port} ({getattr(error, 'strerror', None) or error})"
        raise InvalidInputError("host and port", "a free local address", received) from error
    bound.set_inheritable(True)
    return bound


def listen(
    settings: Settings, opened: contextlib.ExitStack
) -> tuple[list[socket.socket], Settings]:
    """The listening sockets, that of administration last, and settings that know its port.

    Args:
        settings: the addresses.
        opened: closes the sockets in the end.

    Raises:
        InvalidInputError: an address cannot be used, or both ports are the same.
    """
    sockets = [opened.enter_context(bind(settings.host, settings.port))]
    if settings.admin_port is None:
        return sockets, settings
    sockets.append(opened.enter_context(bind(settings.admin_host, settings.admin_port)))
    port, admin_port = (bound.getsockname()[1] for bound in sockets)
    if port == admin_port:  # of two addresses; nobody could tell them apart
        raise InvalidInputError("admin port", f"another than {port}", str(admin_port))
    return sockets, settings.model_copy(update={"admin_port": admin_port})


def url_of(bound: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bind_unix(path: Path) -> socket.socket:
    """A listening socket in the file system, in place of one that may be left there."""
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(path))
    bound.listen(BACKLOG)
    return bound
