"""A worker process, `python -m slimq_service.server.worker`; started only by the supervisor.

Its configuration is one line of JSON on standard input, which stays open: end of file means that
the supervisor has died, and the worker shuts down, too.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import structlog

from slimq.core.errors import SlimqError
from slimq_service.app import create_app
from slimq_service.http.peers import Peers, socket_name
from slimq_service.http.worker_table import WorkerTable
from slimq_service.metrics.registry import Registry
from slimq_service.server.logs import configure_logs
from slimq_service.server.receiver import ConnectionReceiver
from slimq_service.server.run import exit_cleanly, run
from slimq_service.server.supervision.worker_folder import listen_to_peers
from slimq_service.server.worker_ipc import START_FAILED, WorkerConfig
from slimq_service.settings import Settings


def main() -> None:
    """Runs until the supervisor stops it or dies."""
    config = WorkerConfig(**json.loads(sys.stdin.buffer.readline()))
    configure_logs(config.level)
    settings = Settings.model_validate_json(config.settings)
    own = socket_name(config.index)
    folder = None if config.folder is None else Path(config.folder)
    table = WorkerTable(config.table)
    try:
        registry = Registry(folder, config.index, table)
        app = create_app(settings, registry, Peers(folder, own, table), tuple(config.player))
    except SlimqError as error:
        structlog.get_logger(component="worker").error("start failed", problem=str(error))
        raise SystemExit(START_FAILED) from error
    inner = listen_to_peers(folder, own)
    channel = socket.socket(fileno=config.channel)
    threading.Thread(target=_watch_supervisor, args=(sys.stdin.fileno(),), daemon=True).start()
    receiver = ConnectionReceiver(channel, table, config.index)
    run(app, settings, inner, receiver)


def _watch_supervisor(descriptor: int) -> None:
    """Waits until the supervisor dies; reads unbuffered, so that the exit can interrupt it."""
    while os.read(descriptor, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    exit_cleanly()
    main()
