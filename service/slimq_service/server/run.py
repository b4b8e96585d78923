"""Runs the service in this process: uvicorn, a graceful end on SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn

from slimq.core.providers import CPU
from slimq_service.app import Application
from slimq_service.inference.arrivals import Arrivals
from slimq_service.server.orders import START_FAILED
from slimq_service.server.process_limits import bound_memory
from slimq_service.server.protocol_options import http_options
from slimq_service.server.receiver import ConnectionReceiver
from slimq_service.server.sockets import BACKLOG
from slimq_service.server.uvicorn_adapter.server import Server
from slimq_service.server.uvicorn_adapter.websocket import WebSocketConnection
from slimq_service.settings import Settings

PING_SECONDS = 20.0
"""Between two pings of a stream; proxies tend to drop connections that are silent for a minute."""
PONG_SECONDS = 60.0
"""How long a ping may go unanswered: its answer stands behind the messages that were sent ahead."""
CLOSING_SECONDS = 1.0
"""How long clients of streams have to acknowledge that these were closed."""


def run(
    app: Application,
    settings: Settings,
    sockets: Sequence[socket.socket],
    receiver: ConnectionReceiver | None = None,
) -> None:
    """Runs an application until a signal ends it.

    Args:
        app: from `create_app`.
        settings: those that it was made with.
        sockets: where it listens.
        receiver: of a worker: what else it answers, and where it tells that it lives.

    Raises:
        SystemExit: 3 where the start fails; uvicorn has logged why.
    """
    if settings.memory_limit_bytes is not None or settings.providers == CPU:
        bound_memory(settings.memory_limit_bytes)  # drivers of others map more than there is
    count = receiver.count if receiver is not None else lambda: None
    config = make_config(app.asgi, settings, app.count_refused, app.arrivals, count)
    server = _Server(config, app, receiver)
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
    """How uvicorn runs the application: with uvloop and httptools wherever they are installed.

    Messages of streams are not compressed: deflating and inflating a frame takes longer than many
    a model does. Forwarded headers are `http/forwarded.py`'s.

    Args:
        app: what answers.
        settings: the limits.
        refused: told the code of every error that is answered before there is a request; answers
            the id of that.
        arrivals: counts the requests that were read and are not started.
        closed: called when a connection has been closed.
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
    """Goes on for a while after the first signal, no longer ready, and ends streams with a reason.

    A worker goes on until its supervisor has no more connections for it.
    """

    def __init__(
        self, config: uvicorn.Config, app: Application, receiver: ConnectionReceiver | None
    ) -> None:
        super().__init__(config)
        self._app, self._receiver = app, receiver
        self._end: float | None = None

    def starting(self) -> None:
        if self._receiver is not None:
            self._receiver.beat()

    def answering(self) -> None:
        if self._receiver is not None:
            self._receiver.open(self.give, self.connection_count)

    def signalled(self) -> bool:
        lifecycle, seconds = self._app.lifecycle, self._app.settings.drain_seconds
        is_first, lifecycle.draining = not lifecycle.draining, True
        if is_first and self._receiver is not None:
            self._receiver.leave()
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
        """Ends the streams, within the time that there is for everything."""
        loop = asyncio.get_running_loop()
        began, seconds = loop.time(), self._app.settings.shutdown_seconds
        ending = asyncio.ensure_future(self._app.streams.end())
        await self.until(ending.done, seconds)
        ending.cancel()
        await self.until(lambda: not self.has_websockets(), CLOSING_SECONDS)
        self.set_shutdown_seconds(max(1, seconds - int(loop.time() - began)))


def end_cleanly() -> None:
    """Makes a clean exit of the signal that uvicorn raises again when it has finished."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)


def _end(number: int, frame: types.FrameType | None) -> None:  # noqa: ARG001
    raise SystemExit(0)
