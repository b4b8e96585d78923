#!/usr/bin/env python3
"""Exits with 0 if the service in this container answers /healthz, otherwise with 1.

`slimq-healthcheck /readyz` checks another path.
"""

from __future__ import annotations

import os
import sys
import urllib.request

SECONDS = 2.0


def is_well(port: str, path: str) -> bool:
    """Whether the service on this local port answers 200 in time."""
    url = f"http://127.0.0.1:{port}{path}"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=SECONDS) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    asked = sys.argv[1] if len(sys.argv) > 1 else "/healthz"
    sys.exit(0 if is_well(os.environ.get("SLIMQ_PORT", "8000"), asked) else 1)
