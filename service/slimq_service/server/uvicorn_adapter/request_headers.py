"""Checks of request headers that httptools does not make."""

from __future__ import annotations

import re
from functools import lru_cache

from slimq_service.errors import MalformedRequestError, TransferCodingError

Headers = list[tuple[bytes, bytes]]
CACHED_HOSTS = 256
MAX_SHOWN_BYTES = 100
"""Of an invalid value, in its error."""
VALID = re.compile(rb"(\[[0-9A-Za-z:.%~_-]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(:[0-9]*)?")
"""`uri-host [":" port]` (RFC 9110, 7.2); empty if the target has no authority."""


def check_host(headers: Headers, version: str) -> None:
    """Checks that a request has exactly one valid Host header (RFC 9112, 3.2).

    Args:
        headers: the request's, with names in lower case.
        version: of HTTP; a request of 1.0 need not have one.

    Raises:
        MalformedRequestError: it has none, more than one, or an invalid one.
    """
    count, host = 0, b""
    for name, value in headers:
        if name == b"host":
            count, host = count + 1, value
    if count > 1 or (count == 0 and version != "1.0"):
        received = f"{count} of them" if count else "no such header"
        raise MalformedRequestError("Host", "exactly one header", received)
    if not is_valid(host):
        raise MalformedRequestError("Host", "a host and optionally a port", _shown(host))


def check_transfer_coding(headers: Headers) -> None:
    """Rejects transfer codings below `chunked`, which nothing here would undo (RFC 9112, 6.1).

    Raises:
        TransferCodingError: the header is not `chunked` alone.
    """
    for name, value in headers:
        if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            raise TransferCodingError("Transfer-Encoding", "'chunked' alone", _shown(value))


@lru_cache(CACHED_HOSTS)
def is_valid(host: bytes) -> bool:
    """Whether a Host header's value is a host with or without a port."""
    return VALID.fullmatch(host.strip(b" \t")) is not None


def _shown(value: bytes) -> str:
    return repr(value[:MAX_SHOWN_BYTES].decode("latin-1"))
