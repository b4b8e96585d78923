"""Runs the service in this process, with uvicorn and a graceful shutdown on SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import structlog
import uvicorn

from slimq.core.providers import CPU
from slimq_service.app import Application
from slimq_service.inference.arrivals import Arrivals
from slimq_service.server.process_limits import limit_memory
from slimq_service.server.protocol_options import http_options
from slimq_service.server.receiver import ConnectionReceiver
from slimq_service.server.sockets import BACKLOG, numeric_address
from slimq_service.server.uvicorn_adapter.server import Server
from slimq_service.server.uvicorn_adapter.websocket import WebSocketConnection
from slimq_service.server.worker_ipc import START_FAILED
from slimq_service.settings import Settings

if TYPE_CHECKING:
    from slimq_service.grpc.server import GrpcServer

PING_SECONDS = 20.0
"""Interval between pings of a stream; many proxies close connections idle for a minute."""
PONG_SECONDS = 60.0
"""Timeout of a ping; the pong is queued behind messages that the client has sent ahead."""
CLOSING_SECONDS = 1.0
"""Timeout for clients to acknowledge that their stream was closed."""


def run(
    app: Application,
    settings: Settings,
    sockets: Sequence[socket.socket],
    receiver: ConnectionReceiver | None = None,
) -> None:
    """Runs an application until a signal.

    Args:
        app: from `create_app`.
        settings: those passed to `create_app`.
        sockets: the listening sockets.
        receiver: of a worker: receives connections, and reports heartbeats.

    Raises:
        SystemExit: 3 if the start fails; uvicorn has logged why.
    """
    if settings.memory_limit_bytes is not None or settings.providers == CPU:
        limit_memory(settings.memory_limit_bytes)  # GPU drivers map more memory than exists
    count = receiver.count if receiver is not None else lambda: None
    config = make_config(app.asgi, settings, app.count_refused, app.arrivals, count)
    server = _Server(config, app, receiver, _make_grpc(app, settings))
    server.run(sockets=list(sockets))
    if not server.started:
        raise SystemExit(START_FAILED)


def make_config(
    app: Callable[..., Any],
    settings: Settings,
    refused: Callable[[str], str],
    arrivals: Arrivals | None = None,
    closed: Callable[[], None] = lambda: None,
) -> uvicorn.Config:
    """The configuration of uvicorn, with uvloop and httptools if they are installed.

    Messages of streams are not compressed, since that takes longer than many models. Forwarded
    headers are handled by `http/forwarded.py`.

    Args:
        app: the application.
        settings: the limits.
        refused: called with the code of every error that precedes a request; returns a request
            id.
        arrivals: counts requests that have been read but not started.
        closed: called after a connection was closed.
    """
    return uvicorn.Config(
        app,
        loop="auto",
        **http_options(settings, refused, arrivals or Arrivals(), closed),
        ws=WebSocketConnection,
        ws_max_size=settings.stream_message_bytes,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PONG_SECONDS,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )


class _Server(Server):
    """Drains after the first signal (answers, but is not ready), then closes streams with a reason.

    A worker drains until its supervisor has no more connections for it.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        app: Application,
        receiver: ConnectionReceiver | None,
        grpc: GrpcServer | None,
    ) -> None:
        super().__init__(config)
        self._app, self._receiver, self._grpc = app, receiver, grpc
        self._end: float | None = None

    def starting(self) -> None:
        if self._receiver is not None:
            self._receiver.heartbeat()

    async def answering(self) -> None:
        if self._grpc is not None:
            try:
                await self._grpc.start()
            except RuntimeError as error:  # the port was taken since it was reserved
                log = structlog.get_logger(component="server")
                log.error("start failed", problem=str(error))
                self.started, self.should_exit = False, True
                return
        if self._receiver is not None:
            self._receiver.open(self.give, self.connection_count)

    def signalled(self) -> bool:
        lifecycle, seconds = self._app.lifecycle, self._app.settings.drain_seconds
        is_first, lifecycle.draining = not lifecycle.draining, True
        if is_first and self._receiver is not None:
            self._receiver.drain()
            return False
        if is_first and seconds:
            self._end = time.monotonic() + seconds
            return False
        return True

    def is_due(self) -> bool:
        if self._receiver is not None and self._receiver.ended:
            self._app.lifecycle.draining = True
            return True
        return self._end is not None and time.monotonic() >= self._end

    async def ending(self) -> None:
        """Closes streams and finishes gRPC calls, within the time limit of the whole shutdown."""
        loop = asyncio.get_running_loop()
        began, seconds = loop.time(), self._app.settings.shutdown_seconds
        ends = [self._app.streams.end()]
        if self._grpc is not None:
            ends.append(self._grpc.stop(max(0.5, seconds - 1)))
        ending = asyncio.gather(*ends)
        await self.until(ending.done, seconds)
        ending.cancel()
        await self.until(lambda: not self.has_websockets(), CLOSING_SECONDS)
        self.set_shutdown_seconds(max(1, seconds - int(loop.time() - began)))


def _make_grpc(app: Application, settings: Settings) -> GrpcServer | None:
    if settings.grpc_port is None:
        return None
    from slimq_service.grpc.server import GrpcServer  # only where it is needed

    return GrpcServer(app, numeric_address(settings.host), settings.grpc_port)


def exit_cleanly() -> None:
    """Exits with 0 on the signal that uvicorn raises again after its shutdown."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)


def _end(number: int, frame: types.FrameType | None) -> None:  # noqa: ARG001
    raise SystemExit(0)
