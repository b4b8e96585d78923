#!/usr/bin/env python3
"""Exit code 0 when the service in this container answers /healthz, 1 otherwise."""

from __future__ import annotations

import os
import sys
import urllib.request

SECONDS = 2.0


def is_alive(port: str) -> bool:
    """Whether the service on this port of this machine answers 200 in time."""
    url = f"http://127.0.0.1:{port}/healthz"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=SECONDS) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    sys.exit(0 if is_alive(os.environ.get("SLIMQ_PORT", "8000")) else 1)
