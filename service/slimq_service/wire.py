"""How uvicorn reads requests: bounded by us with httptools, or by h11 where that is missing.

h11 is what Windows has. It bounds a head in bytes but not in time, and answers in plain text.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from slimq.core.errors import SlimqError
from slimq_service.arrivals import App
from slimq_service.problems import MEDIA_TYPE, problem_of, render
from slimq_service.request_ids import HEADER
from slimq_service.rlimits import allow_connections
from slimq_service.settings import Settings


@dataclass(frozen=True)
class WireLimits:
    """What a client may take.

    Attributes:
        head_bytes: most bytes of request line and headers.
        head_seconds: time in which they must arrive.
        send_seconds: time in which a client must take more of its answer.
        connections: most that are open at once.
        refused: told the code of every error that is answered before there is a request; answers
            the id of that.
        arrived: told of every request that was read what is to answer it; says what does.
    """

    head_bytes: int
    head_seconds: float
    send_seconds: float
    connections: int
    refused: Callable[[str], str]
    arrived: Callable[[App], App]


def http_options(
    settings: Settings, refused: Callable[[str], str], arrived: Callable[[App], App]
) -> dict[str, Any]:
    """The options of `uvicorn.Config` that say how requests are read.

    Args:
        settings: the limits.
        refused: told the code of every error that is answered before there is a request; answers
            the id of that.
        arrived: told of every request that was read what is to answer it; says what does.
            h11 does not ask.
    """
    if importlib.util.find_spec("httptools") is None:
        return {"http": "h11", "h11_max_incomplete_event_size": settings.max_header_bytes}
    from slimq_service.protocol import make_protocol

    limits = WireLimits(
        settings.max_header_bytes,
        settings.header_seconds,
        settings.send_seconds,
        allow_connections(settings.max_connections),
        refused,
        arrived,
    )
    return {"http": make_protocol(limits)}


def raw_answer(error: SlimqError, headers: list[tuple[bytes, bytes]], request_id: str) -> bytes:
    """An answer from before there is a request, with the headers that the server gives each."""
    problem = problem_of(error)
    body = render(problem | {"request_id": request_id})
    status = HTTPStatus(problem["status"])
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
    lines += [name + b": " + value for name, value in headers]
    lines.append(f"content-type: {MEDIA_TYPE}".encode())
    lines.append(f"content-length: {len(body)}".encode())
    lines.append(HEADER + b": " + request_id.encode())
    if "retry_after" in problem:
        lines.append(f"retry-after: {problem['retry_after']}".encode())
    return b"\r\n".join([*lines, b"connection: close", b"", body])
