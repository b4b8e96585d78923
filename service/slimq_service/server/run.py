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
from slimq_service.inference.arrivals import App
from slimq_service.server.orders import START_FAILED
from slimq_service.server.process_limits import bound_memory
from slimq_service.server.protocol_options import http_options
from slimq_service.server.sockets import BACKLOG
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
    started: Callable[[], None] = lambda: None,
) -> None:
    """Runs an application on sockets until a signal ends it.

    Args:
        app: from `create_app`.
        settings: those that it was made with.
        sockets: where it listens.
        started: called once it answers.

    Raises:
        SystemExit: 3 where the start fails; uvicorn has logged why.
    """
    if settings.memory_limit_bytes is not None or settings.providers == CPU:
        bound_memory(settings.memory_limit_bytes)  # drivers of others map more than there is
    config = make_config(app.asgi, settings, app.count_refused, app.arrivals.note)
    server = _Server(config, app, started)
    server.run(sockets=list(sockets))
    if not server.started:
        raise SystemExit(START_FAILED)


def make_config(
    app: Callable[..., Any],
    settings: Settings,
    refused: Callable[[str], str],
    arrived: Callable[[App], App] = lambda app: app,
) -> uvicorn.Config:
    """How uvicorn runs the application: with uvloop and httptools wherever they are installed.

    Messages of streams are not compressed: deflating and inflating a frame takes longer than many
    a model does. Forwarded headers are `http/forwarded.py`'s.

    Args:
        app: what answers.
        settings: the limits.
        refused: told the code of every error that is answered before there is a request; answers
            the id of that.
        arrived: told of every request that was read what is to answer it; says what does.
    """
    return uvicorn.Config(
        app,
        loop="auto",
        **http_options(settings, refused, arrived),
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


class _Server(uvicorn.Server):
    """Uvicorn's, which goes on for a while after the first signal, no longer ready.

    Then it closes the streams with a reason, which uvicorn would cut off in mid-answer.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        app: Application,
        started: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._lifecycle = app.lifecycle
        self._app, self._drain_seconds = app, app.settings.drain_seconds
        self._started = started
        self._end: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._started()

    def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
        if self._lifecycle.draining or not self._drain_seconds:
            super().handle_exit(sig, frame)
        else:
            self._end = time.monotonic() + self._drain_seconds
        self._lifecycle.draining = True

    async def on_tick(self, counter: int) -> bool:
        if self._end is not None and time.monotonic() >= self._end:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the streams, then all the rest, together within the time that there is for it."""
        streams = self._app.streams
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


def end_cleanly() -> None:
    """Makes a clean exit of the signal that uvicorn raises again when it has finished."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)


def _end(number: int, frame: types.FrameType | None) -> None:  # noqa: ARG001
    raise SystemExit(0)
