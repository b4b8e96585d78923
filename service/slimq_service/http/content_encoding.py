"""Compressed request bodies: supported encodings, and decompression within a limit."""

from __future__ import annotations

import zlib

from slimq_service.errors import LimitError, MalformedError, MediaTypeError
from slimq_service.http.bodies import Headers, header

WINDOW_BITS = {"gzip": 31, "deflate": 15}
"""zlib's window bits of each encoding; deflate is in zlib format (RFC 9110, 8.4.1.2)."""
ALIASES = {"x-gzip": "gzip"}
"""Equivalent names (RFC 9110, 8.4.1.3)."""
MAX_MEMBERS = 1024
"""gzip members per body (RFC 1952, 2.2); empty ones cost far more than their 20 bytes suggest."""
PIECE_BYTES = 64 * 1024
"""Input per decompression step, since zlib copies its remaining input after each member."""


def encoding_of(headers: Headers) -> str | None:
    """The body's content encoding, one of `WINDOW_BITS`, None if it is not compressed.

    Raises:
        MediaTypeError: the encoding is not supported, or there is more than one.
    """
    if header(headers, b"content-encoding") is None:
        return None
    values = [value for name, value in headers if name == b"content-encoding"]
    name = b", ".join(values).decode("latin-1").strip().lower()
    if name in ("", "identity"):
        return None
    name = ALIASES.get(name, name)
    if name not in WINDOW_BITS:
        expected = f"{' or '.join(WINDOW_BITS)}, or an uncompressed body"
        raise MediaTypeError("Content-Encoding", expected, repr(name))
    return name


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Decompresses a body; stops once the limit is exceeded.

    Args:
        body: one or more gzip members, or one zlib stream.
        encoding: one of `WINDOW_BITS`.
        limit: maximum size of the result in bytes.

    Raises:
        MalformedError: the body is not in this encoding, is truncated, or has trailing bytes.
        LimitError: it decompresses to more than the limit, or has more than `MAX_MEMBERS`.
    """
    content, members = bytearray(), 1
    stream = zlib.decompressobj(WINDOW_BITS[encoding])
    for start in range(0, len(body), PIECE_BYTES):
        piece = body[start : start + PIECE_BYTES]
        end = start + len(piece)
        while piece:
            if stream.eof:
                left = len(body) - end + len(piece)
                stream, members = _next_member(encoding, left, members), members + 1
            try:
                content += stream.decompress(piece, limit + 1 - len(content))
            except zlib.error as error:
                expected = f"a body compressed with {encoding}"
                raise MalformedError("body", expected, _problem(error, members)) from None
            if len(content) > limit:
                raise LimitError("body", limit, "more than that once decompressed", "bytes")
            piece = stream.unused_data
    if not stream.eof:
        raise MalformedError("body", f"a complete {encoding} stream", "a truncated one")
    return bytes(content)


def _next_member(encoding: str, left: int, members: int) -> zlib._Decompress:
    if encoding != "gzip":
        raise MalformedError("body", f"one {encoding} stream", f"{left} bytes after it")
    if members == MAX_MEMBERS:
        raise LimitError("body", MAX_MEMBERS, "more", "gzip members")
    return zlib.decompressobj(WINDOW_BITS[encoding])


def _problem(error: zlib.error, members: int) -> str:
    return str(error) if members == 1 else f"{error} (after {members - 1} complete gzip members)"
