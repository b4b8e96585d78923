"""Takes a body apart: decompresses it, and finds where its JSON ends and binary tensors begin.

After Triton's binary tensor data extension. `Inference-Header-Content-Length` counts the bytes of
the JSON once it is decompressed.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from slimq_service.errors import LimitError, MalformedError, MediaTypeError
from slimq_service.http.bodies import Headers, header, number_of

LENGTH_HEADER = b"inference-header-content-length"
LENGTH_NAME = "Inference-Header-Content-Length"
WINDOWS = {"gzip": 31, "deflate": 15}
"""zlib's number for each encoding; deflate has zlib's frame around it (RFC 9110, 8.4.1.2)."""


@dataclass(frozen=True)
class Frame:
    """A body in its parts.

    Attributes:
        head: the JSON, None where the whole body is the single input.
        binary: the tensors that follow it, one after another.
        length_given: whether the request said how long its JSON is.
    """

    head: bytes | None
    binary: memoryview
    length_given: bool


def encoding_of(headers: Headers) -> str | None:
    """How the body is compressed, None where it is not.

    Raises:
        MediaTypeError: in a way that is not supported.
    """
    value = header(headers, b"content-encoding")
    name = (value or b"").decode("latin-1").strip().lower()
    if name in ("", "identity"):
        return None
    if name not in WINDOWS:
        expected = f"{' or '.join(WINDOWS)}, or an uncompressed body"
        raise MediaTypeError("Content-Encoding", expected, repr(name))
    return name


def json_length(headers: Headers) -> int | None:
    """The length that the request gives for its JSON, None where it gives none.

    Raises:
        MalformedError: it is not a number of bytes.
    """
    value = header(headers, LENGTH_HEADER)
    if value is None:
        return None
    length = number_of(value)
    if length is None:
        raise MalformedError(LENGTH_NAME, "a number of bytes", repr(value.decode("latin-1")))
    return length


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """The body as it was before it was compressed; never more than the limit is unpacked.

    Args:
        body: one gzip or zlib stream.
        encoding: one of `WINDOWS`.
        limit: most bytes of the result.

    Raises:
        MalformedError: it is not of this encoding, is cut off, or something follows it.
        LimitError: there is more in it than the limit.
    """
    stream = zlib.decompressobj(WINDOWS[encoding])
    try:
        content = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise MalformedError("body", f"a body compressed with {encoding}", str(error)) from None
    if len(content) > limit:
        raise LimitError("body", limit, "more than that once decompressed", "bytes")
    if not stream.eof:
        raise MalformedError("body", f"a whole {encoding} stream", "one that is cut off")
    if stream.unused_data:
        received = f"{len(stream.unused_data)} bytes after it"
        raise MalformedError("body", f"one {encoding} stream", received)
    return content


def split(body: bytes, length: int | None) -> Frame:
    """The parts of a decompressed body.

    Raises:
        MalformedError: the JSON is said to be longer than the whole body.
    """
    view = memoryview(body)
    if length is None:
        return Frame(body, view[:0], length_given=False)
    if length == 0:
        return Frame(None, view, length_given=True)
    if length > len(view):
        raise MalformedError(LENGTH_NAME, f"at most {len(view)} (the whole body)", str(length))
    return Frame(body[:length], view[length:], length_given=True)
