"""Label values known in advance: error codes, and the reasons why streams end."""

from __future__ import annotations

from slimq.core import errors
from slimq_service.errors import (
    BodyTimeoutError,
    ClosingError,
    ConflictError,
    ConnectionsError,
    CrossSiteError,
    DeadlineError,
    ForbiddenError,
    HeadLimitError,
    HeadTimeoutError,
    LayoutChangedError,
    LimitError,
    MalformedError,
    MalformedRequestError,
    MediaTypeError,
    NonFiniteError,
    OverloadedError,
    RangeNotSatisfiableError,
    TransferCodingError,
    UnauthorizedError,
)
from slimq_service.http.problems import INTERNAL, NO_SUCH_PATH

CLIENT_GONE = "client-gone"
ERROR_CODES = (
    errors.InvalidInputError.code,
    errors.ObservationError.code,
    LimitError.code,
    MalformedError.code,
    MediaTypeError.code,
    ConflictError.code,
    NonFiniteError.code,
    BodyTimeoutError.code,
    OverloadedError.code,
    DeadlineError.code,
    ClosingError.code,
    errors.NotFoundError.code,
    errors.RepositoryError.code,
    LayoutChangedError.code,
    CLIENT_GONE,
    INTERNAL,
)
"""Errors of requests for actions: act, infer and stream messages."""
METHOD_NOT_ALLOWED = "method-not-allowed"
WIRE_CODES = (
    HeadLimitError.code,
    HeadTimeoutError.code,
    MalformedRequestError.code,
    TransferCodingError.code,
    ConnectionsError.code,
)
"""Errors that close a connection before a request is complete."""
ACCESS_CODES = (UnauthorizedError.code, ForbiddenError.code, CrossSiteError.code)
UPGRADE_REQUIRED = "upgrade-required"
HTTP_ERROR_CODES = (
    *(NO_SUCH_PATH, METHOD_NOT_ALLOWED, UPGRADE_REQUIRED),
    *WIRE_CODES,
    *ACCESS_CODES,
    RangeNotSatisfiableError.code,
    errors.ServiceError.code,
    *ERROR_CODES,
)
"""Errors of all other requests, including those that open streams."""
STREAM_ENDS = ("client", "lost", "protocol", "too-large", "idle", "layout", "restart", "internal")
"""Why streams end."""
