"""Splits a body into its JSON and the binary tensors after it.

See Triton's binary tensor data extension. `Inference-Header-Content-Length` is the length of the
decompressed JSON.
"""

from __future__ import annotations

from dataclasses import dataclass

from slimq_service.errors import MalformedError
from slimq_service.http.bodies import Headers, header, parse_length

LENGTH_HEADER = b"inference-header-content-length"
LENGTH_NAME = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Frame:
    """The parts of a body.

    Attributes:
        head: the JSON; None if the whole body is the raw input.
        binary: the concatenated tensors after it.
        length_given: whether the request gave the length of its JSON.
    """

    head: bytes | None
    binary: memoryview
    length_given: bool


def json_length(headers: Headers) -> int | None:
    """The length of the JSON according to the headers, None if they do not give it.

    Raises:
        MalformedError: the header is not a number of bytes.
    """
    value = header(headers, LENGTH_HEADER)
    if value is None:
        return None
    length = parse_length(value)
    if length is None:
        raise MalformedError(LENGTH_NAME, "a number of bytes", repr(value.decode("latin-1")))
    return length


def split(body: bytes, length: int | None) -> Frame:
    """Splits a decompressed body.

    Raises:
        MalformedError: the given length exceeds the body.
    """
    view = memoryview(body)
    if length is None:
        return Frame(body, view[:0], length_given=False)
    if length == 0:
        return Frame(None, view, length_given=True)
    if length > len(view):
        raise MalformedError(LENGTH_NAME, f"at most {len(view)} (the whole body)", str(length))
    return Frame(body[:length], view[length:], length_given=True)
