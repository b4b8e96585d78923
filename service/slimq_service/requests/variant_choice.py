"""Which variant answers, by where a request names it: path, query or body."""

from __future__ import annotations

from typing import NamedTuple

from slimq_service.errors import ConflictError
from slimq_service.http.query import read_query


class Choice(NamedTuple):
    """The variant that a request names before its body is read."""

    path: str | None = None
    query: str | None = None

    @property
    def named(self) -> str | None:
        """The variant, None where neither names one."""
        return self.query if self.path is None else self.path

    def with_body(self, body: str | None) -> str | None:
        """The variant that the whole request names, None where it names none.

        Raises:
            ConflictError: the body names a different one.
        """
        return choose({"path": self.path, "query": self.query, "body": body})


def choice(path: str | None, query: bytes) -> Choice:
    """The variant that path and query string name.

    Raises:
        InvalidInputError: the query has an unknown parameter.
        ConflictError: they name different variants.
    """
    if not query:
        return Choice(path)
    found = Choice(path, query_variant(query))
    choose(found._asdict())
    return found


def query_variant(query: bytes) -> str | None:
    """The variant that a query string names.

    Raises:
        InvalidInputError: it has an unknown parameter.
        ConflictError: it names different variants.
    """
    found: str | None = None
    for _, value in read_query(query, ("variant",)):
        if found is not None and found != value:
            raise ConflictError("variant", "one variant", f"{found!r} and {value!r} by query")
        found = value
    return found


def choose(named: dict[str, str | None]) -> str | None:
    """The one variant that is named, None where none is.

    Args:
        named: the variant by the place that names it: path, query, body.

    Raises:
        ConflictError: two places name different variants; the message has both.
    """
    found = {place: name for place, name in named.items() if name is not None}
    if len(set(found.values())) > 1:
        received = " and ".join(f"{name!r} by {place}" for place, name in found.items())
        raise ConflictError("variant", "the same variant everywhere", received)
    return next(iter(found.values()), None)
