"""uvicorn's server with hooks."""

from __future__ import annotations

import asyncio
import socket
import types
from collections.abc import Callable, Iterable
from typing import Any

import uvicorn

from slimq_service.server.closing_listeners import accept_waiting, refuse_new
from slimq_service.server.uvicorn_adapter.websocket import WebSocketConnection

LOOK_SECONDS = 0.02
"""Polling interval during shutdown."""


class Server(uvicorn.Server):
    """uvicorn's server; accepts connections from elsewhere, and resets none on shutdown."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._given: set[asyncio.Task[Any]] = set()

    # Hooks.

    def starting(self) -> None:
        """Called before startup, in the event loop."""

    async def answering(self) -> None:
        """Called after startup."""

    def signalled(self) -> bool:
        """Whether a signal shuts the server down at once; otherwise `is_due` decides when."""
        return True

    def is_due(self) -> bool:
        """Whether to shut down; checked ten times a second."""
        return False

    async def ending(self) -> None:
        """Called once no more connections are accepted, before requests are finished."""

    def connection_failed(self) -> None:
        """Called if a connection passed to `give` could not be opened."""

    # State and actions.

    def connection_count(self) -> int:
        """The number of connections that are open or being opened."""
        return len(self.server_state.connections) + len(self._given)

    def has_websockets(self) -> bool:
        """Whether any WebSocket is open."""
        return any(isinstance(c, WebSocketConnection) for c in self.server_state.connections)

    def give(self, connection: socket.socket) -> None:
        """Serves a connection that was accepted elsewhere."""
        connection.settimeout(0)
        loop = asyncio.get_running_loop()
        given = loop.create_task(loop.connect_accepted_socket(self._make_protocol, connection))
        self._given.add(given)
        given.add_done_callback(self._begun)

    def finish_requests(self) -> None:
        """Closes every connection after its pending responses."""
        for connection in list(self.server_state.connections):
            if not isinstance(connection, WebSocketConnection):
                connection.shutdown()

    async def until(self, done: Callable[[], bool], seconds: float) -> None:
        """Waits for a condition, at most for `seconds` or until a forced exit (second Ctrl+C)."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not done() and not self.force_exit and loop.time() < deadline:
            await asyncio.sleep(LOOK_SECONDS)

    def set_shutdown_seconds(self, seconds: int) -> None:
        """Sets the timeout for open connections, counted from the end of `ending`."""
        self.config.timeout_graceful_shutdown = seconds

    # Overridden methods of uvicorn.

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Calls the hooks around uvicorn's start."""
        self.starting()
        await super().startup(sockets)
        if self.started:
            await self.answering()

    def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
        """Shuts down on a signal, unless the hook postpones it."""
        if self.signalled():
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Shuts down when `is_due`."""
        if self.is_due():
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops listening, calls the hook, and shuts down as uvicorn does."""
        await self._stop_listening(sockets or [])
        self.finish_requests()
        await self.ending()
        await super().shutdown(sockets)

    async def _stop_listening(self, sockets: Iterable[socket.socket]) -> None:
        """Closes the listening sockets after accepting the connections in their backlogs."""
        kept = [one.dup() for one in sockets]
        seconds = max(map(refuse_new, kept), default=0.0)
        for server in self.servers:
            server.close()
        await self.until(lambda: False, seconds)
        for listener in kept:
            listener.settimeout(0)
            for connection in accept_waiting(listener):
                self.give(connection)
            listener.close()
        while self._given:
            await asyncio.wait(list(self._given))

    def _begun(self, given: asyncio.Task[Any]) -> None:
        self._given.discard(given)
        if not given.cancelled() and given.exception() is not None:  # the client has disconnected
            self.connection_failed()

    def _make_protocol(self) -> asyncio.Protocol:
        protocol: Any = self.config.http_protocol_class
        made: asyncio.Protocol = protocol(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=asyncio.get_running_loop(),
        )
        return made
