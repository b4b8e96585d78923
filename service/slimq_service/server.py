"""Runs the service in this process: uvicorn, a graceful end on SIGTERM."""

from __future__ import annotations

import os
import signal
import socket
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI

from slimq.core.errors import RepositoryError
from slimq_service.app import create_app
from slimq_service.health import Lifecycle
from slimq_service.settings import Settings, unknown_variables
from slimq_service.sockets import BACKLOG, bind, url_of

START_FAILED = 3
"""The exit status of a start that failed, as uvicorn's own command has it."""


def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; requests under way are finished first.

    Args:
        settings: everything it can be told.
        announce: told the URL once connections are accepted.

    Raises:
        RepositoryError: the directory of policies is not there.
        InvalidInputError: the address cannot be used.
        SystemExit: 3 where the start fails; the log says why.
    """
    if not settings.policies.is_dir():
        path = str(settings.policies)
        raise RepositoryError(path, "no such directory; give one with --policies")
    for variable, near in unknown_variables(os.environ).items():
        log = structlog.get_logger(component="settings")
        log.warning("variable is not read", variable=variable, did_you_mean=near)
    bound = bind(settings.host, settings.port)
    try:
        if settings.workers == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, _end)
            app = create_app(settings)
            announce(url_of(bound))
            run(app, settings, [bound])
        else:
            from slimq_service.supervisor import Supervisor  # only where it is needed

            announce(url_of(bound))
            Supervisor(settings, [bound]).run()
    finally:
        bound.close()


def run(
    app: FastAPI,
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
    server = _Server(make_config(app, settings), app.state.lifecycle, settings, started)
    server.run(sockets=list(sockets))
    if not server.started:
        raise SystemExit(START_FAILED)


def make_config(app: Callable[..., Any], settings: Settings) -> uvicorn.Config:
    """How uvicorn runs the application: with uvloop and httptools wherever they are installed."""
    return uvicorn.Config(
        app,
        loop="auto",
        http="auto",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )


class _Server(uvicorn.Server):
    """Uvicorn's, which goes on for a while after the first signal, no longer ready."""

    def __init__(
        self,
        config: uvicorn.Config,
        lifecycle: Lifecycle,
        settings: Settings,
        started: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._lifecycle, self._drain_seconds = lifecycle, settings.drain_seconds
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


def _end(number: int, frame: types.FrameType | None) -> None:  # noqa: ARG001
    """Uvicorn raises the signal again when it has finished: this makes that a clean exit."""
    raise SystemExit(0)
