"""Conditional and partial responses of a representation with a strong ETag (RFC 9110, 13 and 14).

Only single ranges of bytes are served: to several, or to a malformed one, the whole is a valid
response. There are no modification dates, so that a condition on one never holds.
"""

from __future__ import annotations

import re

from slimq_service.errors import RangeNotSatisfiableError
from slimq_service.http.bodies import Headers

_ENTITY_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*", re.IGNORECASE)


def is_unchanged(headers: Headers, etag: str) -> bool:
    """Whether `If-None-Match` names the current version; tags are compared weakly."""
    value = _joined(headers, b"if-none-match")
    if value is None:
        return False
    return value.strip() == "*" or etag in _ENTITY_TAG.findall(value)


def selected_range(headers: Headers, etag: str, size: int) -> tuple[int, int] | None:
    """The bytes that a request asks for, as first and end; None for the whole.

    Args:
        headers: the request's, with `Range` and perhaps `If-Range`.
        etag: of the current version, quotes included.
        size: its bytes.

    Raises:
        RangeNotSatisfiableError: none of the bytes exists.
    """
    value = _joined(headers, b"range")
    condition = _joined(headers, b"if-range")
    if value is None or (condition is not None and condition.strip() != etag):
        return None
    found = _RANGE.fullmatch(value.strip())
    if found is None or found[1] == found[2] == "":
        return None
    if not found[1]:
        first, end = max(0, size - int(found[2])), size
    else:
        first, end = int(found[1]), int(found[2]) + 1 if found[2] else size
        if end <= first and found[2]:
            return None  # a last byte before the first is malformed
    if first >= size:
        raise RangeNotSatisfiableError(size, value)
    return first, min(end, size)


def _joined(headers: Headers, name: bytes) -> str | None:
    """The values of a header, joined as if they were one; None if there is none."""
    values = [value.decode("latin-1") for key, value in headers if key == name]
    return ", ".join(values) if values else None
