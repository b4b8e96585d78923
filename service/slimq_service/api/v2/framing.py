"""Splits a body into its JSON and the binary tensors that follow.

After Triton's binary tensor data extension. `Inference-Header-Content-Length` counts the bytes of
the JSON once it is decompressed.
"""

from __future__ import annotations

from dataclasses import dataclass

from slimq_service.errors import MalformedError
from slimq_service.http.bodies import Headers, header, number_of

LENGTH_HEADER = b"inference-header-content-length"
LENGTH_NAME = "Inference-Header-Content-Length"


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
