"""The error hierarchy.

Every error that a user can cause is a `SlimqError`. It carries its data (the field, the limit, the
value received), a stable `code`, and a message that says what to do. The service converts it to a
problem document, the command line to one line on stderr.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from typing import Any

MAX_COMPARED = 64
"""Maximum characters of a name that are compared with similar ones; valid names are no longer."""


class SlimqError(Exception):
    """Base of all errors that slimq raises deliberately.

    Attributes:
        code: stable identifier, the same over HTTP and on the command line.
        status: HTTP status of the service's response.
    """

    code = "error"
    status = 500

    def members(self) -> dict[str, Any]:
        """The error's data as members of a problem document (RFC 9457, section 3.2)."""
        return {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the error with its data and message, to pass it between processes."""
        return _rebuild, (type(self), self.args, self.__dict__)


class InvalidInputError(SlimqError):
    """An invalid input value; the message names the field, the limit and the value.

    A `hint`, such as from `suggestion`, is appended to the message and not part of the data.
    """

    code = "invalid-input"
    status = 422

    def __init__(self, field: str, expected: str, received: str, hint: str = "") -> None:
        self.field, self.expected, self.received = field, expected, received
        super().__init__(f"{field}: expected {expected}, received {received}{hint}")

    def members(self) -> dict[str, Any]:
        """The field, the limit and the value received."""
        return {"field": self.field, "limit": self.expected, "received": self.received}


class ObservationError(InvalidInputError):
    """An observation with the wrong shape, dtype or length, or a non-finite value."""

    code = "invalid-observation"


class ConfigError(SlimqError):
    """An invalid configuration or recipe; names the file, the place and the nearest name."""

    code = "invalid-config"
    status = 422

    def __init__(self, source: str, place: str, problem: str) -> None:
        self.source, self.place, self.problem = source, place, problem
        super().__init__(f"{source}: {place}: {problem}")


class NotFoundError(SlimqError):
    """An unknown policy or variant; lists the available ones."""

    code = "not-found"
    status = 404

    def __init__(self, kind: str, name: str, available: Iterable[str]) -> None:
        self.kind, self.name, self.available = kind, name, sorted(available)
        listing = ", ".join(self.available) or "none"
        super().__init__(
            f"unknown {kind} {name!r}{suggestion(name, self.available)}; available: {listing}"
        )

    def members(self) -> dict[str, Any]:
        """The requested name, and the available ones."""
        return {"field": self.kind, "received": self.name, "available": self.available}


class RepositoryError(SlimqError):
    """A violation of the repository's contract: a missing, truncated or corrupt file."""

    code = "repository"
    status = 503

    def __init__(self, path: str, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path}: {problem}")

    def members(self) -> dict[str, Any]:
        """The path of the file in the repository."""
        return {"field": self.path}


class MissingExtraError(SlimqError):
    """A missing optional dependency; names the extra that installs it."""

    code = "missing-extra"

    def __init__(self, module: str, extra: str) -> None:
        self.module, self.extra = module, extra
        super().__init__(f"{module} is not installed: pip install 'slimq[{extra}]'")


class TrainingError(SlimqError):
    """A failure of training, for example a non-finite loss."""

    code = "training"


class EnvironmentFailure(SlimqError):  # noqa: N818
    """A fault of an environment: an exception in it, or a value that breaks its contract.

    Attributes:
        environment: the environment's id.
        place: where it happened, such as `episode of seed 7, step 12`.
        field: the function or the value at fault.
    """

    code = "environment"

    def __init__(self, environment: str, place: str, field: str, problem: str) -> None:
        self.environment, self.place, self.field, self.problem = environment, place, field, problem
        super().__init__(f"{environment}: {place}: {field}: {problem}")

    def members(self) -> dict[str, Any]:
        """The environment, the place and the field."""
        return {"environment": self.environment, "place": self.place, "field": self.field}


class GateError(SlimqError):
    """A variant that failed its recipe's accept gate; nothing was published."""

    code = "gate"


class AcceptGateError(GateError):
    """The failed criteria of an accept gate, each with its value and limit."""

    def __init__(
        self, variant: str, failures: Iterable[tuple[str, float, str, float, str]]
    ) -> None:
        self.variant, self.failures = variant, list(failures)
        listing = "; ".join(
            f"{name} is {plain_number(value)}, {relation} {plain_number(limit)}"
            f"{f' ({basis})' if basis else ''} is needed"
            for name, value, relation, limit, basis in self.failures
        )
        super().__init__(f"variant {variant!r} is not accepted and was not published: {listing}")


def plain_number(value: float) -> str:
    """Formats a number: integers, such as bytes, in full, others with six significant digits."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.6g}"


class CheckFailedError(SlimqError):
    """A failed check that the user requested; the command exits with 1."""

    code = "check-failed"


class ServiceError(SlimqError):
    """An error response from a service, or a service that cannot be reached."""

    code = "service"

    def __init__(self, url: str, status: int | None, problem: str) -> None:
        self.url, self.http_status, self.problem = url, status, problem
        super().__init__(f"{url}: {problem}" if status is None else f"{url}: {status} {problem}")


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name most similar to `name`; None if none is similar."""
    found = difflib.get_close_matches(name[:MAX_COMPARED], list(valid), n=1)
    return found[0] if found else None


def suggestion(name: str, valid: Iterable[str]) -> str:
    """Returns `", did you mean 'x'?"` for the nearest valid name, or an empty string."""
    near = nearest(name, valid)
    return "" if near is None else f", did you mean {near!r}?"


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type; other lines are often traces."""
    return "".join(str(error).splitlines()[:1]) or type(error).__name__


def describe_system_error(error: OSError) -> str:
    """Describes a system error in one line, with the file if it has one."""
    problem = error.strerror or first_line(error)
    return problem if error.filename is None else f"{os.fsdecode(error.filename)}: {problem}"


def _rebuild(kind: type[SlimqError], message: tuple[Any, ...], data: dict[str, Any]) -> SlimqError:
    error = kind.__new__(kind)
    error.args = message
    error.__dict__.update(data)
    return error
