"""How uvicorn reads requests: bounded by us with httptools, or by h11 where that is missing.

h11 is what Windows has. It bounds a head in bytes but not in time, and answers in plain text.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from slimq_service.inference.arrivals import Arrivals
from slimq_service.server.process_limits import allow_connections
from slimq_service.settings import Settings


def http_options(
    settings: Settings,
    refused: Callable[[str], str],
    arrivals: Arrivals,
    closed: Callable[[], None],
) -> dict[str, Any]:
    """The options of `uvicorn.Config` that say how requests are read.

    Args:
        settings: the limits.
        refused: told the code of every error that is answered before there is a request; answers
            the id of that.
        arrivals: counts the requests that were read and are not started; not with h11.
        closed: called when a connection has been closed; not by h11 either.
    """
    if importlib.util.find_spec("httptools") is None:
        return {"http": "h11", "h11_max_incomplete_event_size": settings.max_header_bytes}
    from slimq_service.server.http_protocol import WireLimits, make_protocol

    limits = WireLimits(
        settings.max_header_bytes,
        settings.header_seconds,
        settings.send_seconds,
        allow_connections(settings.max_connections),
        refused,
        closed,
    )
    return {"http": make_protocol(limits, arrivals)}
