"""Errors as problem documents (RFC 9457), for every error that this service answers.

The members beyond the standard ones are `code` (stable, the same as on the command line) and the
error's own data: `field`, `limit` and `received`, or what `available` names there are; and the
`request_id` of the request, by which the log is searched.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson

from slimq.core.errors import SlimqError
from slimq_service.http.request_ids import CURRENT

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:slimq:problem:"
INTERNAL = "internal"
NO_SUCH_PATH = "no-such-path"
LONGEST_TEXT = 500
"""Characters of a text that came from outside, when it is repeated in an answer."""

Problem = dict[str, Any]


def make_problem(status: int, code: str, detail: str, **data: Any) -> Problem:
    """A problem document; texts are cut to a length that is safe to repeat."""
    document = {
        "type": TYPE_PREFIX + code,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": cut(detail, 2 * LONGEST_TEXT),
        "code": code,
    }
    for name, value in data.items():
        document[name] = cut(value, LONGEST_TEXT) if isinstance(value, str) else value
    return document


def problem_of(error: SlimqError) -> Problem:
    """The problem document of an error of the tree, with its data."""
    return make_problem(error.status, error.code, str(error), **error.members())


def internal_problem() -> Problem:
    """The answer to a mistake of our own; what happened is in the log, not in the answer."""
    return make_problem(500, INTERNAL, "the service made a mistake; its log has the details")


def explain(error: Exception) -> Problem:
    """The problem document of whatever went wrong: an error of the tree, or a mistake of ours."""
    return problem_of(error) if isinstance(error, SlimqError) else internal_problem()


def no_such_path(path: str, detail: str, limit: str = "the paths in /docs") -> Problem:
    """The answer where there is nothing at a path; `limit` says which paths there are."""
    return make_problem(404, NO_SUCH_PATH, detail, field="path", limit=limit, received=path)


def render(problem: Problem) -> bytes:
    """The document as bytes, with the id of the request that it answers."""
    current = CURRENT.get()
    return orjson.dumps(problem if current is None else {**problem, "request_id": current})


def cut(text: str, length: int) -> str:
    """The text, shortened where it is longer than `length`, and always valid UTF-8."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= length else f"{text[:length]}… ({len(text)} characters)"
