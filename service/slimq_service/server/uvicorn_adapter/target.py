"""Path and query of a request's target."""

from __future__ import annotations

import httptools


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request's target (RFC 9112, 3.2), nearly always in origin form."""
    if target.startswith(b"/") and b"#" not in target:
        path, _, query = target.partition(b"?")
        return path, query
    url = httptools.parse_url(target)
    return url.path or b"/", url.query or b""
