"""Runs the service: one process, uvicorn, a graceful end on SIGTERM."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import types
from collections.abc import Callable
from typing import Any, Protocol

import structlog
import uvicorn

from slimq.core.errors import InvalidInputError, RepositoryError
from slimq_service.app import create_app
from slimq_service.rlimits import bound_memory
from slimq_service.settings import Settings, unknown_variables
from slimq_service.wire import http_options

BACKLOG = 2048
"""Connections that wait while the process is busy or still starting."""

START_FAILED = 3
"""The exit status of a start that failed, as uvicorn's own command has it."""


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


def url_of(bound: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Announce(Protocol):
    """Whoever wants to know where the service is."""

    def __call__(self, url: str, admin_url: str | None = None, /) -> None:
        """Is told once connections are accepted; administration may have a URL of its own."""


def serve(settings: Settings, announce: Announce) -> None:
    """Serves until SIGTERM or SIGINT; requests under way are finished first.

    Args:
        settings: everything it can be told.
        announce: told where.

    Raises:
        RepositoryError: the directory of policies is not there.
        ConfigError: a file that a setting names cannot be read, or does not hold a key.
        MissingExtraError: a setting asks for what is not installed.
        InvalidInputError: an address cannot be used.
        SystemExit: 3 where the start fails; uvicorn has logged why.
    """
    if not settings.policies.is_dir():
        path = str(settings.policies)
        raise RepositoryError(path, "no such directory; give one with --policies")
    for variable, near in unknown_variables(os.environ).items():
        log = structlog.get_logger(component="settings")
        log.warning("variable is not read", variable=variable, did_you_mean=near)
    bound_memory(settings.memory_limit_bytes)
    with contextlib.ExitStack() as opened:
        sockets, settings = listen(settings, opened)
        app = create_app(settings)
        config = make_config(app, settings, app.state.refused)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        announce(*map(url_of, sockets))
        server = uvicorn.Server(config)
        server.run(sockets=sockets)
    if not server.started:
        raise SystemExit(START_FAILED)


def listen(
    settings: Settings, opened: contextlib.ExitStack
) -> tuple[list[socket.socket], Settings]:
    """The listening sockets, that of administration last, and settings that know its port.

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


def make_config(
    app: Callable[..., Any], settings: Settings, refused: Callable[[str], str]
) -> uvicorn.Config:
    """How uvicorn runs the application: with uvloop and httptools wherever they are installed.

    Args:
        app: what answers.
        settings: the limits.
        refused: told the code of every error that is answered before there is a request; answers
            the id of that.
    """
    return uvicorn.Config(
        app,
        loop="auto",
        **http_options(settings, refused),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )


def _end(number: int, frame: types.FrameType | None) -> None:  # noqa: ARG001
    """Uvicorn raises the signal again when it has finished: this makes that a clean exit."""
    raise SystemExit(0)
