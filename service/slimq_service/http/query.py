"""Query strings; an unknown parameter is an error and never ignored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import parse_qsl

from slimq.core.errors import InvalidInputError, suggestion


def read_query(query: bytes, known: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and values in order; the caller decides how to treat repeated names.

    Args:
        query: the raw query string, as in the ASGI scope.
        known: the valid names, at least one.

    Raises:
        InvalidInputError: an unknown name, when it is reached.
    """
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="replace")
    for name, value in pairs:
        if name not in known:
            expected = " and ".join(known) if known[1:] else f"the parameter {known[0]}"
            hint = suggestion(name, known)
            raise InvalidInputError("query", f"only {expected}", repr(name), hint)
        yield name, value
