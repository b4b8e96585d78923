#!/usr/bin/env python3
"""Exits with 0 if the service in this container answers /healthz, otherwise with 1.

`slimq-healthcheck /readyz` checks another path. The service is reached at SLIMQ_UDS if that is set,
otherwise at SLIMQ_PORT.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys

SECONDS = 2.0


def is_well(path: str) -> bool:
    """Whether the service answers with 200 in time."""
    try:
        port, uds = int(os.environ.get("SLIMQ_PORT", "8000")), os.environ.get("SLIMQ_UDS")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        if uds:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(SECONDS)
            connection.sock.connect(uds)
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, ValueError, http.client.HTTPException):
        return False


if __name__ == "__main__":
    sys.exit(0 if is_well(sys.argv[1] if len(sys.argv) > 1 else "/healthz") else 1)
