"""How the protocol words errors: `{"error": "..."}`, with a status that its clients know."""

from __future__ import annotations

import orjson

from slimq_service.answers import Answer
from slimq_service.problems import Problem

PREFIX = "/v2"
TAG = "open inference protocol"
"""Under which the document of the interface lists the routes."""
STATUSES = {415: 400, 422: 400}
"""The protocol has one status for every request that is wrong in itself."""


def is_protocol(path: str) -> bool:
    """Whether a path is one of the protocol's, so that its errors are worded here."""
    return path == PREFIX or path.startswith(PREFIX + "/")


def error_answer(problem: Problem) -> Answer:
    """The answer to what went wrong."""
    status: int = problem["status"]
    status = STATUSES.get(status, status)
    return Answer(status, b"application/json", orjson.dumps({"error": problem["detail"]}))
