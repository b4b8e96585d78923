"""Problem documents (RFC 9457) for all errors of the service.

The extension members are `code` (stable, the same as on the command line), the error's data
(`field`, `limit` and `received`, or the `available` names) and `request_id`, to search the log for.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson

from slimq.core.errors import SlimqError
from slimq_service.http.request_ids import CURRENT_ID

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:slimq:problem:"
INTERNAL = "internal"
NO_SUCH_PATH = "no-such-path"
MAX_TEXT_LENGTH = 500
"""Characters of a client's text that are echoed in a response."""

Problem = dict[str, Any]


def make_problem(status: int, code: str, detail: str, **data: Any) -> Problem:
    """A problem document; texts are truncated to a length that is safe to echo."""
    document = {
        "type": TYPE_PREFIX + code,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": truncate(detail, 2 * MAX_TEXT_LENGTH),
        "code": code,
    }
    for name, value in data.items():
        document[name] = truncate(value, MAX_TEXT_LENGTH) if isinstance(value, str) else value
    return document


def problem_of(error: SlimqError) -> Problem:
    """The problem document of a `SlimqError`, with its data."""
    return make_problem(error.status, error.code, str(error), **error.members())


def internal_problem() -> Problem:
    """The response to an internal error; the details are in the log only."""
    return make_problem(500, INTERNAL, "internal error; see the service's log for details")


def explain(error: Exception) -> Problem:
    """The problem document of any exception: a `SlimqError`, or an internal error."""
    return problem_of(error) if isinstance(error, SlimqError) else internal_problem()


def no_such_path(path: str, detail: str, limit: str = "the paths in /docs") -> Problem:
    """The response for an unknown path; `limit` describes the valid ones."""
    return make_problem(404, NO_SUCH_PATH, detail, field="path", limit=limit, received=path)


def render(problem: Problem) -> bytes:
    """The document as JSON, with the id of the current request."""
    current = CURRENT_ID.get()
    return orjson.dumps(problem if current is None else {**problem, "request_id": current})


def truncate(text: str, length: int) -> str:
    """The text as valid UTF-8, truncated if it is longer than `length`."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= length else f"{text[:length]}… ({len(text)} characters)"
