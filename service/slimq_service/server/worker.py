"""One of several workers: `python -m slimq_service.server.worker`, started by the supervisor alone.

Its orders are one line of JSON on standard input, which stays open: where it ends, the supervisor
has died, and the worker ends too.
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
from slimq_service.server.orders import START_FAILED, Orders
from slimq_service.server.receiver import ConnectionReceiver
from slimq_service.server.run import end_cleanly, run
from slimq_service.server.supervision.worker_folder import listen_to_peers
from slimq_service.settings import Settings


def main() -> None:
    """Runs until the supervisor ends it or has died."""
    orders = Orders(**json.loads(sys.stdin.buffer.readline()))
    configure_logs(orders.level)
    settings = Settings.model_validate_json(orders.settings)
    own = socket_name(orders.index)
    folder = None if orders.folder is None else Path(orders.folder)
    table = WorkerTable(orders.table)
    try:
        registry = Registry(folder, orders.index, table)
        app = create_app(settings, registry, Peers(folder, own, table))
    except SlimqError as error:
        structlog.get_logger(component="worker").error("start failed", problem=str(error))
        raise SystemExit(START_FAILED) from error
    inner = listen_to_peers(folder, own)
    channel = socket.socket(fileno=orders.channel)
    threading.Thread(target=_watch, args=(sys.stdin.fileno(),), daemon=True).start()
    receiver = ConnectionReceiver(channel, table, orders.index)
    run(app, settings, inner, receiver)


def _watch(descriptor: int) -> None:
    """Waits for the supervisor's end; unbuffered, so that this thread may be left in the middle."""
    while os.read(descriptor, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    end_cleanly()
    main()
