"""The service's errors: each has its data, a stable code and a message that says what to do."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from slimq.core.errors import InvalidInputError, SlimqError
from slimq_service import errors

EXAMPLES: list[tuple[SlimqError, str, int, str]] = [
    (
        errors.LimitError("body", 10, "11 bytes", "bytes"),
        "over-limit",
        413,
        "body: expected at most 10 bytes, received 11 bytes",
    ),
    (
        errors.UnauthorizedError("Authorization", "Bearer KEY", "no key"),
        "unauthorized",
        401,
        "Authorization: expected Bearer KEY, received no key",
    ),
    (
        errors.ForbiddenError("key", "the admin key", "the API key"),
        "forbidden",
        403,
        "key: expected the admin key, received the API key",
    ),
    (
        errors.CrossSiteError("Origin", "https://a.example", "'null'"),
        "cross-site",
        403,
        "Origin: expected https://a.example, received 'null'",
    ),
    (
        errors.HeadLimitError("head", 10, "11 bytes", "bytes"),
        "head-over-limit",
        431,
        "head: expected at most 10 bytes, received 11 bytes",
    ),
    (
        errors.MalformedRequestError("request", "HTTP/1.1", "something else"),
        "malformed-request",
        400,
        "request: expected HTTP/1.1, received something else",
    ),
    (
        errors.TransferCodingError("Transfer-Encoding", "'chunked' alone", "'gzip, chunked'"),
        "unsupported-transfer-coding",
        501,
        "Transfer-Encoding: expected 'chunked' alone, received 'gzip, chunked'",
    ),
    (
        errors.RangeNotSatisfiableError(10, "bytes=10-"),
        "range-not-satisfiable",
        416,
        "Range: expected bytes from 0 to 9, received 'bytes=10-'",
    ),
    (
        errors.MalformedError("body", "JSON", "text"),
        "malformed-body",
        400,
        "body: expected JSON, received text",
    ),
    (
        errors.MediaTypeError("content-type", "application/json", "text/xml"),
        "unsupported-media-type",
        415,
        "content-type: expected application/json, received text/xml",
    ),
    (
        errors.ConflictError("variant", "one name", "two"),
        "conflict",
        400,
        "variant: expected one name, received two",
    ),
    (
        errors.NonFiniteError("q_values", "finite values", "NaN"),
        "non-finite-q-values",
        422,
        "q_values: expected finite values, received NaN",
    ),
    (
        errors.HeadTimeoutError(2.5),
        "head-timeout",
        408,
        "the head did not arrive within 2.5 s",
    ),
    (
        errors.BodyTimeoutError(2.5),
        "body-timeout",
        408,
        "the body did not arrive within 2.5 s",
    ),
    (
        errors.ConnectionsError(10),
        "too-many-connections",
        503,
        "all 10 connections are in use; try again in 1 s",
    ),
    (
        errors.OverloadedError(10, 2),
        "overloaded",
        503,
        "the queue is full (10 requests); try again in 2 s",
    ),
    (
        errors.OverloadedError(1000, 2, "bytes"),
        "overloaded",
        503,
        "this request would exceed the 1000 bytes that may be queued; try again in 2 s",
    ),
    (
        errors.OverloadedError(10, 2, "streams"),
        "overloaded",
        503,
        "all 10 streams are in use; try again in 2 s",
    ),
    (
        errors.ClosingError(),
        "closing",
        503,
        "the service is shutting down; try again once it has restarted",
    ),
    (
        errors.DeadlineError(1.5),
        "deadline",
        503,
        "queued for 1.5 s without being served; try again later",
    ),
    (errors.LayoutChangedError("open a new one"), "layout-changed", 409, "open a new one"),
]


@pytest.mark.parametrize(("error", "code", "status", "message"), EXAMPLES)
def test_an_error_has_its_code_status_and_message(
    error: SlimqError, code: str, status: int, message: str
) -> None:
    assert (error.code, error.status, str(error)) == (code, status, message)


@pytest.mark.parametrize("error", [example[0] for example in EXAMPLES])
def test_an_error_survives_pickling(error: SlimqError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("error", [example[0] for example in EXAMPLES])
def test_an_error_says_what_is_wrong_what_is_allowed_and_what_was_received(
    error: SlimqError,
) -> None:
    members = error.members()
    if isinstance(error, errors.UnavailableError):
        assert members["retry_after"] == error.retry_after
    elif not isinstance(error, errors.LayoutChangedError):
        assert members.keys() == {"field", "limit", "received"}
        assert isinstance(members["limit"], int) or not isinstance(error, errors.LimitError)


def _subclasses(kind: type[SlimqError]) -> Iterator[type[SlimqError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def test_every_error_has_an_example_and_its_own_code() -> None:
    kinds = {
        kind
        for kind in {*_subclasses(SlimqError), InvalidInputError}
        if kind.__module__ == errors.__name__ and "code" in vars(kind)
    }
    assert kinds == {type(example[0]) for example in EXAMPLES}
    codes = [kind.code for kind in kinds]
    assert len(set(codes)) == len(codes)
