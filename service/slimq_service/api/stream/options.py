"""What the query of a stream's address chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from slimq.core.errors import InvalidInputError, suggestion
from slimq_service.errors import ConflictError
from slimq_service.http.query import read_query

Format = Literal["json", "msgpack"]
Keep = Literal["all", "newest"]
Errors = Literal["answer", "text"]

VARIANT = "variant"
CHOICES: dict[str, tuple[str, ...]] = {
    "format": ("json", "msgpack"),
    "keep": ("all", "newest"),
    "errors": ("answer", "text"),
}
"""The values of each parameter but the variant, the default first."""


@dataclass(frozen=True)
class StreamOptions:
    """The options of a stream.

    Attributes:
        variant: the variant that the query names, if any.
        format: the format of answers, and of binary messages.
        keep: `newest` if an observation is not run when a newer one has arrived.
        errors: `text` if problem documents are sent as text, whatever the format.
    """

    variant: str | None = None
    format: Format = "json"
    keep: Keep = "all"
    errors: Errors = "answer"


def read_options(query: bytes) -> StreamOptions:
    """Reads the query string of a stream's address.

    Raises:
        InvalidInputError: the query has an unknown parameter or value.
        ConflictError: a parameter has different values.
    """
    found: dict[str, str] = {}
    for name, value in read_query(query, (VARIANT, *CHOICES)):
        if found.setdefault(name, value) != value:
            received = f"{found[name]!r} and {value!r} in the query"
            raise ConflictError(name, f"one {name}", received)
        known = CHOICES.get(name, (value,))
        if value not in known:
            hint = suggestion(value, known)
            raise InvalidInputError(name, " or ".join(known), repr(value), hint)
    return StreamOptions(
        found.get(VARIANT),
        cast(Format, found.get("format", "json")),
        cast(Keep, found.get("keep", "all")),
        cast(Errors, found.get("errors", "answer")),
    )
