"""The listening sockets, which are bound before anything else is started."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        bound = _open(host, port, socket.SO_REUSEADDR)
        try:
            bound.listen(BACKLOG)
        except OSError:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:  # UnicodeError: not a valid IDNA name
        received = f"{host}:{port} ({getattr(error, 'strerror', None) or error})"
        raise InvalidInputError("host and port", "a free local address", received) from error
    bound.set_inheritable(True)
    return bound


def reserve(settings: Settings, opened: contextlib.ExitStack) -> Settings:
    """Reserves the gRPC port, if there is to be one; fills it in in the settings.

    gRPC opens its listening sockets itself, one in each worker, all at the same port. The socket
    here never listens, so it gets no connections; it keeps the port while workers are restarted.

    Args:
        settings: host and port.
        opened: closes the socket at the end.

    Raises:
        InvalidInputError: the port cannot be used.
    """
    host, port = settings.host, settings.grpc_port
    if port is None:
        return settings
    try:
        if not hasattr(socket, "SO_REUSEPORT"):
            raise InvalidInputError("gRPC port", "a system with SO_REUSEPORT", sys.platform)
        with _open(host, port, socket.SO_REUSEADDR) as exclusive:  # fails if another listens
            port = exclusive.getsockname()[1]
        reserved = opened.enter_context(_open(host, port, socket.SO_REUSEPORT))
    except (OSError, UnicodeError) as error:
        received = f"{host}:{port} ({getattr(error, 'strerror', None) or error})"
        raise InvalidInputError("gRPC port", "a free port of the host", received) from error
    return settings.model_copy(update={"grpc_port": reserved.getsockname()[1]})


def numeric_address(host: str) -> str:
    """The address that a host is listened on at."""
    return str(_resolve(host, 0)[3][0])


def _open(host: str, port: int, option: int) -> socket.socket:
    """A bound socket, with a socket option set to 1."""
    family, kind, protocol, address = _resolve(host, port)
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _resolve(host: str, port: int) -> tuple[int, int, int, tuple[Any, ...]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    return family, kind, protocol, address


def listen(
    settings: Settings, opened: contextlib.ExitStack
) -> tuple[list[socket.socket], Settings]:
    """Opens the listening sockets, that of the admin port last; fills in that port in the settings.

    Args:
        settings: the addresses.
        opened: closes the sockets at the end, and removes the file of a Unix socket.

    Raises:
        InvalidInputError: an address cannot be used, or the ports are equal.
    """
    if settings.uds is None:
        main = opened.enter_context(bind(settings.host, settings.port))
    else:
        main = bind_public(settings.uds, opened)
    if settings.admin_port is None:
        return [main], settings
    admin = opened.enter_context(bind(settings.admin_host, settings.admin_port))
    admin_port = admin.getsockname()[1]
    if settings.uds is None and main.getsockname()[1] == admin_port:  # at different addresses
        raise InvalidInputError("admin port", f"a port other than {admin_port}", str(admin_port))
    return [main, admin], settings.model_copy(update={"admin_port": admin_port})


def url_of(bound: socket.socket) -> str:
    """The URL of a listening socket, or `unix:` and its path."""
    if bound.family == getattr(socket, "AF_UNIX", None):
        return f"unix:{bound.getsockname()}"
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bind_unix(path: Path) -> socket.socket:
    """Opens a listening Unix socket; replaces a stale one."""
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(path))
    bound.listen(BACKLOG)
    return bound


def bind_public(path: Path, opened: contextlib.ExitStack) -> socket.socket:
    """Opens a listening Unix socket for clients; replaces a stale one.

    Its mode is 0777 less the umask from the start: the umask and the folder decide who may connect.
    If the mode were set afterwards, others could connect in between.

    Args:
        path: of the socket; may exist if it is a socket on which nobody listens.
        opened: closes the socket at the end, and removes its file unless it has been replaced.

    Raises:
        InvalidInputError: a server listens there, the path is not a socket, or no socket can be
            created there.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise InvalidInputError("uds", "a system with Unix sockets", sys.platform)
    try:
        if not path.parent.is_dir():
            raise InvalidInputError("uds", "a path in an existing folder", str(path))
        with _locked(path.parent):
            _remove_stale(path)
            bound = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            bound.bind(str(path))
            opened.callback(_remove_own, path, _identity(path))
            bound.listen(BACKLOG)
    except OSError as error:
        received = f"{path} ({error.strerror or error})"
        raise InvalidInputError("uds", "a path where a socket can be created", received) from error
    return bound


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Makes other servers that open a socket in this folder wait.

    Between `bind` and `listen`, a socket looks like a stale one.
    """
    import fcntl  # not on every system

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_stale(path: Path) -> None:
    """Removes a socket on which nobody listens; rejects anything else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        received = f"{path}, which is not a socket and is kept"
        raise InvalidInputError("uds", "the path of a socket", received)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(0)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:  # its backlog is full
            pass
    raise InvalidInputError("uds", "a path on which no other server listens", str(path))


def _identity(path: Path) -> tuple[int, int, int]:
    """Distinguishes a file from a later one at the same path, even with the same inode."""
    found = path.lstat()
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _remove_own(path: Path, identity: tuple[int, int, int]) -> None:
    with contextlib.suppress(OSError):
        if _identity(path) == identity:
            path.unlink()
