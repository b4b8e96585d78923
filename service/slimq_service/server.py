"""Runs the service: one process, uvicorn, a graceful end on SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import types
from collections.abc import Callable
from typing import Any

import structlog
import uvicorn

from slimq.core.errors import InvalidInputError, RepositoryError
from slimq_service.app import create_app
from slimq_service.settings import Settings, unknown_variables
from slimq_service.stream.endpoint import StreamEndpoint

BACKLOG = 2048
"""Connections that wait while the process is busy or still starting."""

PING_SECONDS = 20.0
"""Between two pings of a stream; proxies tend to drop connections that are silent for a minute."""
PONG_SECONDS = 60.0
"""How long a ping may go unanswered: its answer stands behind the messages that were sent ahead."""
CLOSING_SECONDS = 1.0
"""How long clients of streams have to acknowledge that these were closed."""
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


def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; requests under way are finished first.

    Args:
        settings: everything it can be told.
        announce: told the URL once connections are accepted.

    Raises:
        RepositoryError: the directory of policies is not there.
        InvalidInputError: the address cannot be used.
        SystemExit: 3 where the start fails; uvicorn has logged why.
    """
    if not settings.policies.is_dir():
        path = str(settings.policies)
        raise RepositoryError(path, "no such directory; give one with --policies")
    for variable, near in unknown_variables(os.environ).items():
        log = structlog.get_logger(component="settings")
        log.warning("variable is not read", variable=variable, did_you_mean=near)
    bound = bind(settings.host, settings.port)
    config = make_config(create_app(settings), settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    announce(url_of(bound))
    server = Server(config)
    try:
        server.run(sockets=[bound])
    finally:
        bound.close()
    if not server.started:
        raise SystemExit(START_FAILED)


class Server(uvicorn.Server):
    """Has streams closed with their reason, before uvicorn would cut them off in mid-answer."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the streams, then all the rest, together within the time that there is for it."""
        streams: StreamEndpoint = self.config.app.state.streams  # type: ignore[union-attr]
        loop = asyncio.get_running_loop()
        began, seconds = loop.time(), self.config.timeout_graceful_shutdown or 0
        ending = asyncio.ensure_future(streams.end())
        await self._until(ending.done, seconds)
        ending.cancel()
        await self._until(self._no_streams, CLOSING_SECONDS)
        left = seconds - int(loop.time() - began)
        self.config.timeout_graceful_shutdown = max(1, left)
        await super().shutdown(sockets)

    def _no_streams(self) -> bool:
        protocol: Any = self.config.ws_protocol_class
        return not any(isinstance(one, protocol) for one in self.server_state.connections)

    async def _until(self, done: Callable[[], bool], seconds: float) -> None:
        """Waits for something, for a time, or until whoever sits at the keyboard has enough."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not done() and not self.force_exit and loop.time() < deadline:
            await asyncio.sleep(0.02)


def make_config(app: Callable[..., Any], settings: Settings) -> uvicorn.Config:
    """How uvicorn runs the application: with uvloop and httptools wherever they are installed.

    Messages of streams are not compressed: deflating and inflating a frame takes longer than many
    a model does.
    """
    return uvicorn.Config(
        app,
        loop="auto",
        http="auto",
        ws="websockets-sansio",
        ws_max_size=settings.stream_message_bytes,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PONG_SECONDS,
        ws_per_message_deflate=False,
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
