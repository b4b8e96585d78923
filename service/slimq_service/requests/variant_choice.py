"""The variant that a request names, in its path, query or body."""

from __future__ import annotations

from slimq_service.errors import ConflictError
from slimq_service.http.query import read_query


def query_variant(query: bytes) -> str | None:
    """The variant that a query string names.

    Raises:
        InvalidInputError: the query has an unknown parameter.
        ConflictError: the query names different variants.
    """
    found: str | None = None
    for _, value in read_query(query, ("variant",)):
        if found is not None and found != value:
            raise ConflictError("variant", "one variant", f"{found!r} and {value!r} in the query")
        found = value
    return found


def choose(**named: str | None) -> str | None:
    """The variant that a request names, None if it names none.

    Args:
        named: the variants named in path, query and body.

    Raises:
        ConflictError: two of them differ; the message has both.
    """
    found = {place: name for place, name in named.items() if name is not None}
    if len(set(found.values())) > 1:
        received = " and ".join(f"{name!r} in the {place}" for place, name in found.items())
        raise ConflictError("variant", "the same variant everywhere", received)
    return next(iter(found.values()), None)
