"""Errors of the service: what can go wrong with a request, in addition to the errors of core."""

from __future__ import annotations

from typing import Any

from slimq.core.errors import InvalidInputError, SlimqError


class LimitError(InvalidInputError):
    """A value exceeds a limit, such as the bytes of a body or the observations of a batch."""

    code = "over-limit"
    status = 413

    def __init__(self, field: str, limit: int, received: str, unit: str) -> None:
        self.limit, self.unit = limit, unit
        super().__init__(field, f"at most {limit} {unit}", received)

    def members(self) -> dict[str, Any]:
        """The members of every invalid input, with the limit as a number."""
        return {**super().members(), "limit": self.limit}


class UnauthorizedError(InvalidInputError):
    """The request has no key, or an unknown one."""

    code = "unauthorized"
    status = 401


class ForbiddenError(InvalidInputError):
    """The request's key is valid, but not for this operation."""

    code = "forbidden"
    status = 403


class CrossSiteError(InvalidInputError):
    """A browser sent the request for another site, or under a name that is not the service's."""

    code = "cross-site"
    status = 403


class HeadLimitError(LimitError):
    """The request line and headers exceed the limit."""

    code = "head-over-limit"
    status = 431


class MalformedRequestError(InvalidInputError):
    """The bytes received are not an HTTP/1.1 request."""

    code = "malformed-request"
    status = 400


class TransferCodingError(InvalidInputError):
    """The body is sent in a transfer coding other than `chunked` (RFC 9112, 6.1)."""

    code = "unsupported-transfer-coding"
    status = 501


class MalformedError(InvalidInputError):
    """The body cannot be parsed: truncated, or not of its media type."""

    code = "malformed-body"
    status = 400


class MediaTypeError(InvalidInputError):
    """The body's media type or content encoding is not supported."""

    code = "unsupported-media-type"
    status = 415


class ConflictError(InvalidInputError):
    """Two parts of a request contradict each other."""

    code = "conflict"
    status = 400


class RangeNotSatisfiableError(InvalidInputError):
    """The representation has none of the bytes of the requested range."""

    code = "range-not-satisfiable"
    status = 416

    def __init__(self, size: int, received: str) -> None:
        self.size = size
        super().__init__("Range", f"bytes from 0 to {size - 1}", repr(received))

    def headers(self) -> dict[str, str]:
        """The header with the length of the representation (RFC 9110, 14.4)."""
        return {"content-range": f"bytes */{self.size}"}


class NonFiniteError(InvalidInputError):
    """The model returned non-finite Q-values for an observation."""

    code = "non-finite-q-values"


class _TimeoutError(SlimqError):
    """A part of a request did not arrive in time."""

    status = 408
    part = ""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"the {self.part} did not arrive within {seconds:g} s")

    def members(self) -> dict[str, Any]:
        """The part, and the time that it had."""
        return {
            "field": self.part,
            "limit": f"{self.seconds:g} s",
            "received": f"an incomplete {self.part}",
        }


class HeadTimeoutError(_TimeoutError):
    """The request line and headers did not arrive in time."""

    code = "head-timeout"
    part = "head"


class BodyTimeoutError(_TimeoutError):
    """The body did not arrive in time."""

    code = "body-timeout"
    part = "body"


class UnavailableError(SlimqError):
    """The service cannot answer now, but may after `retry_after` seconds."""

    status = 503
    retry_after = 1

    def members(self) -> dict[str, Any]:
        """When to try again."""
        return {"retry_after": self.retry_after}


class ConnectionsError(UnavailableError):
    """The process has as many open connections as it allows."""

    code = "too-many-connections"

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"all {limit} connections are in use; try again in {self.retry_after} s")

    def members(self) -> dict[str, Any]:
        """The limit, and when to try again."""
        return {"limit": self.limit, "unit": "connections", **super().members()}


class OverloadedError(UnavailableError):
    """The queue is full: of requests, of their bytes, or of open streams."""

    code = "overloaded"

    def __init__(self, limit: int, retry_after: int, unit: str = "requests") -> None:
        self.limit, self.retry_after, self.unit = limit, retry_after, unit
        problems = {
            "requests": f"the queue is full ({limit} requests)",
            "streams": f"all {limit} streams are in use",
            "games": f"all {limit} games are in use",
        }
        other = f"this request would exceed the {limit} {unit} that may be queued"
        super().__init__(f"{problems.get(unit, other)}; try again in {retry_after} s")

    def members(self) -> dict[str, Any]:
        """The limit, its unit, and when to try again."""
        return {"limit": self.limit, "unit": self.unit, **super().members()}


class ClosingError(UnavailableError):
    """The service is shutting down; the request was not computed."""

    code = "closing"

    def __init__(self) -> None:
        super().__init__("the service is shutting down; try again once it has restarted")


class DeadlineError(UnavailableError):
    """The request was queued longer than the service allows; it was not computed."""

    code = "deadline"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"queued for {seconds:g} s without being served; try again later")

    def members(self) -> dict[str, Any]:
        """The longest time in the queue, and when to try again."""
        return {"limit": f"{self.seconds:g} s", **super().members()}


class LayoutChangedError(SlimqError):
    """The policy's observation layout differs from the one that the stream was opened with."""

    code = "layout-changed"
    status = 409
