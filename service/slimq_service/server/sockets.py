"""The sockets that the service listens on, bound before anything else is started."""

from __future__ import annotations

import contextlib
import socket
import stat
import sys
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
        opened: closes the sockets in the end, and removes the file of a Unix socket.

    Raises:
        InvalidInputError: an address cannot be used, or both ports are the same.
    """
    if settings.uds is None:
        main = opened.enter_context(bind(settings.host, settings.port))
    else:
        main = bind_public(settings.uds, opened)
    if settings.admin_port is None:
        return [main], settings
    admin = opened.enter_context(bind(settings.admin_host, settings.admin_port))
    admin_port = admin.getsockname()[1]
    if settings.uds is None and main.getsockname()[1] == admin_port:
        # Of two addresses; nobody could tell them apart.
        raise InvalidInputError("admin port", f"another than {admin_port}", str(admin_port))
    return [main, admin], settings.model_copy(update={"admin_port": admin_port})


def url_of(bound: socket.socket) -> str:
    """The URL of a listening socket, or `unix:` and its path."""
    if bound.family == getattr(socket, "AF_UNIX", None):
        return f"unix:{bound.getsockname()}"
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bind_unix(path: Path) -> socket.socket:
    """A listening socket in the file system, in place of one that may be left there."""
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(path))
    bound.listen(BACKLOG)
    return bound


def bind_public(path: Path, opened: contextlib.ExitStack) -> socket.socket:
    """A listening socket in the file system for clients, in place of one that a dead server left.

    Its mode is 0777 less the umask from the first moment on: who starts the service decides who may
    connect, with the umask and the folder. A mode that is set afterwards would open it to all.

    Args:
        path: where there is nothing yet, or a socket on which nobody listens.
        opened: closes the socket in the end, and removes its file unless that is another by then.

    Raises:
        InvalidInputError: a server listens there, the path is something else, or no socket can be
            created there.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise InvalidInputError("uds", "a system with Unix sockets", sys.platform)
    try:
        if not path.parent.is_dir():
            raise InvalidInputError("uds", "a path in an existing folder", str(path))
        _remove_stale(path)
        bound = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        bound.bind(str(path))
        opened.callback(_remove_own, path, _identity(path))
        bound.listen(BACKLOG)
    except OSError as error:
        received = f"{path} ({error.strerror or error})"
        raise InvalidInputError("uds", "a path where a socket can be created", received) from error
    return bound


def _remove_stale(path: Path) -> None:
    """Removes a socket on which nobody listens, and nothing else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        received = f"{path}, which is something else and is left alone"
        raise InvalidInputError("uds", "the path of a socket", received)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(0)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:  # its queue is full
            pass
    raise InvalidInputError("uds", "a path on which no other server listens", str(path))


def _identity(path: Path) -> tuple[int, int, int]:
    """What tells a file from a later one of the same path, even if it gets the same inode."""
    found = path.lstat()
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _remove_own(path: Path, identity: tuple[int, int, int]) -> None:
    with contextlib.suppress(OSError):
        if _identity(path) == identity:
            path.unlink()
