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

    def members(self) -> dict[str, Any]:
        """The error's data as members of a problem document (RFC 9457, section 3.2)."""
        return {}

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

    def members(self) -> dict[str, Any]:
        """What is wrong, what is allowed there, and what was received."""
        return {"field": self.field, "limit": self.expected, "received": self.received}


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
            f"unknown {kind} {name!r}{suggestion(name, self.available)}; available: {listing}"
        )

    def members(self) -> dict[str, Any]:
        """What was asked for, and what is available."""
        return {"field": self.kind, "received": self.name, "available": self.available}


class RepositoryError(SlimqError):
    """The repository on disk breaks its contract: a missing, truncated or tampered file."""

    code = "repository"
    status = 503

    def __init__(self, path: str, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path}: {problem}")

    def members(self) -> dict[str, Any]:
        """The file's path in the repository."""
        return {"field": self.path}


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


class AcceptGateError(GateError):
    """Names each criterion of a recipe's accept gate that failed, with its value and limit."""

    def __init__(self, variant: str, failures: Iterable[tuple[str, float, str, float]]) -> None:
        self.variant, self.failures = variant, list(failures)
        listing = "; ".join(
            f"{name} is {value:.6g}, {relation} {limit:.6g} is needed"
            for name, value, relation, limit in self.failures
        )
        super().__init__(f"variant {variant!r} is not accepted, nothing was published: {listing}")


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


def _rebuild(kind: type[SlimqError], message: tuple[Any, ...], data: dict[str, Any]) -> SlimqError:
    error = kind.__new__(kind)
    error.args = message
    error.__dict__.update(data)
    return error
