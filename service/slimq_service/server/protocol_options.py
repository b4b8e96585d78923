"""uvicorn's HTTP protocol: httptools with our limits, or h11 if httptools is not installed.

h11 is used on Windows. It limits the size of a head, but not its time, and its errors are plain
text.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from slimq_service.inference.arrivals import Arrivals
from slimq_service.server.process_limits import raise_file_limit
from slimq_service.settings import Settings


def http_options(
    settings: Settings,
    refused: Callable[[str], str],
    arrivals: Arrivals,
    closed: Callable[[], None],
) -> dict[str, Any]:
    """The options of `uvicorn.Config` that select and limit the HTTP protocol.

    Args:
        settings: the limits.
        refused: called with the code of every error that precedes a request; returns a request
            id.
        arrivals: counts requests that have been read but not started; not used by h11.
        closed: called after a connection was closed; not called by h11.
    """
    if importlib.util.find_spec("httptools") is None:
        return {"http": "h11", "h11_max_incomplete_event_size": settings.max_header_bytes}
    from slimq_service.server.http_protocol import WireLimits, make_protocol

    limits = WireLimits(
        settings.max_header_bytes,
        settings.header_seconds,
        settings.send_seconds,
        raise_file_limit(settings.max_connections),
        refused,
        closed,
    )
    return {"http": make_protocol(limits, arrivals)}
