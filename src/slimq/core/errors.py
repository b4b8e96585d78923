"""The one error tree.

Every error that a user can cause is a `SlimqError`. It carries its data (the field, the limit, what
was received), a stable `code`, and a message that says what to do. The service turns them into
problem JSON, the command line into one line on stderr.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

LONGEST_COMPARED = 64
"""Characters of a name for which a near one is looked for: as many as a name may have."""


class SlimqError(Exception):
    """Base of every error that slimq raises on purpose.

    Attributes:
        code: stable identifier, the same over HTTP and on the command line.
        status: the HTTP status with which the service answers it.
    """

    code = "error"
    status = 500

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors come back from other processes as they are, data and message."""
        return _rebuild, (type(self), self.args, self.__dict__)


class InvalidInputError(SlimqError):
    """A value from outside breaks a rule; the message names the field, the limit and the value.

    A `hint`, such as that of `suggestion`, ends the message and is no part of the data.
    """

    code = "invalid-input"
    status = 422

    def __init__(self, field: str, expected: str, received: str, hint: str = "") -> None:
        self.field, self.expected, self.received = field, expected, received
        super().__init__(f"{field}: expected {expected}, received {received}{hint}")


class ObservationError(InvalidInputError):
    """An observation has the wrong shape, dtype, length or a value that is not finite."""

    code = "invalid-observation"


class ConfigError(SlimqError):
    """A configuration or recipe file is wrong; names the file, the place and the nearest name."""

    code = "invalid-config"
    status = 422

    def __init__(self, source: str, place: str, problem: str) -> None:
        self.source, self.place, self.problem = source, place, problem
        super().__init__(f"{source}: {place}: {problem}")


class NotFoundError(SlimqError):
    """A policy or variant is not there; lists what is."""

    code = "not-found"
    status = 404

    def __init__(self, kind: str, name: str, available: Iterable[str]) -> None:
        self.kind, self.name, self.available = kind, name, sorted(available)
        listing = ", ".join(self.available) or "none"
        super().__init__(
            f"unknown {kind} {name!r}{suggestion(name, self.available)}; there is: {listing}"
        )


class RepositoryError(SlimqError):
    """The repository on disk breaks its contract: a missing, truncated or tampered file."""

    code = "repository"
    status = 503

    def __init__(self, path: str, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path}: {problem}")


class MissingExtraError(SlimqError):
    """A command needs an extra that is not installed."""

    code = "missing-extra"

    def __init__(self, module: str, extra: str) -> None:
        self.module, self.extra = module, extra
        super().__init__(f"{module} is not installed: pip install 'slimq[{extra}]'")


class TrainingError(SlimqError):
    """Training cannot go on, for example because the loss is not finite."""

    code = "training"


class GateError(SlimqError):
    """A variant fell short of its recipe's accept gate; nothing was published."""

    code = "gate"


class CheckFailedError(SlimqError):
    """A check that the user asked for did not hold; the command ends with 1."""

    code = "check-failed"


class ServiceError(SlimqError):
    """A service answered with an error, or could not be reached."""

    code = "service"

    def __init__(self, url: str, status: int | None, problem: str) -> None:
        self.url, self.http_status, self.problem = url, status, problem
        super().__init__(f"{url}: {problem}" if status is None else f"{url}: {status} {problem}")


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that is most like `name`, None where none is."""
    found = difflib.get_close_matches(name[:LONGEST_COMPARED], list(valid), n=1)
    return found[0] if found else None


def suggestion(name: str, valid: Iterable[str]) -> str:
    """`", did you mean 'x'?"` for the nearest valid name, or an empty string."""
    near = nearest(name, valid)
    return "" if near is None else f", did you mean {near!r}?"


def first_line(error: Exception) -> str:
    """What an error says first, or its kind; what follows is often a trace of other sources."""
    return "".join(str(error).splitlines()[:1]) or type(error).__name__


class LimitError(InvalidInputError):
    """More than a limit allows: bytes of a body, observations of a batch."""

    code = "over-limit"
    status = 413

    def __init__(self, field: str, limit: int, received: str, unit: str) -> None:
        self.limit, self.unit = limit, unit
        super().__init__(field, f"at most {limit} {unit}", received)


class UnauthorizedError(InvalidInputError):
    """A request brings no key, or one that the service does not know."""

    code = "unauthorized"
    status = 401


class ForbiddenError(InvalidInputError):
    """A request brings a key that is good for other requests, not for this one."""

    code = "forbidden"
    status = 403


class HeadLimitError(LimitError):
    """Request line and headers together have more bytes than the service reads."""

    code = "head-over-limit"
    status = 431


class HeadTimeoutError(SlimqError):
    """Request line and headers took longer to arrive than the service waits."""

    code = "head-timeout"
    status = 408

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"head: all headers within {seconds:g} s, they were not complete by then")


class MalformedRequestError(InvalidInputError):
    """What arrives is no HTTP/1.1 request."""

    code = "malformed-request"
    status = 400


class ConnectionsError(SlimqError):
    """As many connections are open as the service holds; one more was closed."""

    code = "too-many-connections"
    status = 503
    retry_after = 1

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"{limit} connections are open already; try again in {self.retry_after} s")


class MalformedError(InvalidInputError):
    """A body cannot be read at all: not JSON, not npy, cut off."""

    code = "malformed-body"
    status = 400


class MediaTypeError(InvalidInputError):
    """A body comes in a format or an encoding that is not supported."""

    code = "unsupported-media-type"
    status = 415


class ConflictError(InvalidInputError):
    """The same thing was given twice, differently."""

    code = "conflict"
    status = 400


class NonFiniteError(InvalidInputError):
    """The Q-values of an observation are not finite, so there is no action to answer."""

    code = "non-finite-q-values"


class BodyTimeoutError(SlimqError):
    """A body took longer to arrive than the service waits."""

    code = "body-timeout"
    status = 408

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"body: the whole body within {seconds:g} s, it was not complete by then")


class OverloadedError(SlimqError):
    """Too much waits already; `retry_after` says in how many seconds to come again.

    The `unit` of the limit is requests, or bytes of theirs, or open streams.
    """

    code = "overloaded"
    status = 503

    def __init__(self, limit: int, retry_after: int, unit: str = "requests") -> None:
        self.limit, self.retry_after, self.unit = limit, retry_after, unit
        problems = {
            "requests": f"{limit} requests are waiting already",
            "streams": f"{limit} streams are open already",
        }
        more = f"at most {limit} {unit} of requests may wait, with this one there would be more"
        super().__init__(f"{problems.get(unit, more)}; try again in {retry_after} s")


class ClosingError(SlimqError):
    """The service is ending, and a request that still waited was not computed."""

    code = "closing"
    status = 503
    retry_after = 1

    def __init__(self) -> None:
        super().__init__("the service is ending; try again when it runs")


class DeadlineError(SlimqError):
    """A request waited longer for its turn than the service lets it; it was not computed."""

    code = "deadline"
    status = 503
    retry_after = 1

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"waited {seconds:g} s for its turn; try again when there is less to do")


class LayoutChangedError(SlimqError):
    """A policy's observations are laid out otherwise than when a stream of them was opened."""

    code = "layout-changed"
    status = 409


class AcceptGateError(GateError):
    """Names each criterion of a recipe's accept gate that failed, with its value and limit."""

    def __init__(self, variant: str, failures: Iterable[tuple[str, float, str, float]]) -> None:
        self.variant, self.failures = variant, list(failures)
        listing = "; ".join(
            f"{name} is {value:.6g}, {relation} {limit:.6g} is needed"
            for name, value, relation, limit in self.failures
        )
        super().__init__(f"variant {variant!r} is not accepted, nothing was published: {listing}")


def _rebuild(kind: type[SlimqError], message: tuple[Any, ...], data: dict[str, Any]) -> SlimqError:
    error = kind.__new__(kind)
    error.args = message
    error.__dict__.update(data)
    return error
