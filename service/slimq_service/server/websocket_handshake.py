"""Checks WebSocket handshakes (RFC 6455, 4.2.1) before the `websockets` library parses them.

The library would answer a malformed one in plain text, or not at all if it cannot parse it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import NoReturn

from websockets.http11 import MAX_LINE_LENGTH, MAX_NUM_HEADERS

from slimq_service.errors import MalformedRequestError

VERSION = b"13"
VERSION_HEADER = (b"sec-websocket-version", VERSION)
"""Header of the response to a malformed handshake: the supported version."""
KEY_BYTES = 16

Headers = Iterable[tuple[bytes, bytes]]


def asks_for_websocket(method: bytes, version: str, headers: Headers) -> bool:
    """Whether an upgrade request is for a WebSocket.

    Args:
        method: of the request.
        version: of HTTP; 1.0 has no upgrade.
        headers: the request's, with names in lower case.
    """
    protocols = [p.strip().lower() for v in _all(headers, b"upgrade") for p in v.split(b",")]
    return method == b"GET" and version == "1.1" and b"websocket" in protocols


def check_handshake(target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Checks that a handshake conforms to the protocol.

    Args:
        target: the request target.
        headers: the request's, with names in lower case.

    Raises:
        MalformedRequestError: it does not, or exceeds the limits of `websockets`.
    """
    max_line = MAX_LINE_LENGTH - len("GET  HTTP/1.1\r\n")
    longest = max(len(target), *(len(name) + len(value) for name, value in headers))
    if longest > max_line:
        _refuse("head", f"lines of at most {max_line} bytes for a WebSocket", f"{longest} bytes")
    if len(headers) > MAX_NUM_HEADERS:
        _refuse("head", f"at most {MAX_NUM_HEADERS} headers for a WebSocket", str(len(headers)))
    if not target.isascii():
        _refuse("path", "ASCII characters", repr(target))
    lengths = _all(headers, b"content-length")
    if _all(headers, b"transfer-encoding") or any(value.strip(b" \t0") for value in lengths):
        _refuse("body", "none in a WebSocket's handshake", "one")
    version = _one(headers, b"sec-websocket-version")
    if version != VERSION:
        _refuse("Sec-WebSocket-Version", VERSION.decode(), _quote(version))
    key = _one(headers, b"sec-websocket-key")
    if not _is_key(key):
        _refuse("Sec-WebSocket-Key", f"{KEY_BYTES} bytes in base64", _quote(key))


def _refuse(field: str, expected: str, received: str) -> NoReturn:
    raise MalformedRequestError(field, expected, received)


def _all(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def _one(headers: Headers, name: bytes) -> bytes | None:
    """The value of a header that may occur once; repeated ones are joined, which is invalid."""
    found = _all(headers, name)
    return b", ".join(found).strip() if found else None


def _quote(value: bytes | None) -> str:
    return "no such header" if value is None else repr(value.decode("latin-1"))


def _is_key(value: bytes | None) -> bool:
    try:
        return value is not None and len(base64.b64decode(value, validate=True)) == KEY_BYTES
    except binascii.Error:
        return False
