"""Query strings, in which a parameter that is not known is a mistake and never ignored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import parse_qsl

from slimq.core.errors import InvalidInputError, suggestion


def read_query(query: bytes, known: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and values in their order; what one that is given twice means is the caller's matter.

    Args:
        query: as ASGI has it.
        known: the names that there are, at least one.

    Raises:
        InvalidInputError: another name, when its turn comes.
    """
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="replace")
    for name, value in pairs:
        if name not in known:
            expected = " and ".join(known) if known[1:] else f"the parameter {known[0]}"
            hint = suggestion(name, known)
            raise InvalidInputError("query", f"only {expected}", repr(name), hint)
        yield name, value
