"""Nested JSON lists of bytes, read without an object for each number.

JSON libraries make a list of every row and look at every number by itself. Here all digits of a
body are worked on at once, as arrays, for the layout that nearly all clients write: integers with a
comma and at most a blank between them. Whether a body is of that layout is seen by writing what was
read as JSON again, which must give the same bytes: so nothing has to be checked before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from slimq.core.observation import ObservationSpec

_COMMA, _BLANK, _ZERO = b", 0"


PLACE = 0
"""Stands where the array was."""


def read_frames(body: bytes, spec: ObservationSpec) -> tuple[Any, bytes] | None:
    """The array `(batch, *shape)` of uint8 in a JSON document, and the document without it.

    None where there is none, or it is not of that layout.

    Args:
        body: a document with one array at most.
        spec: the layout of an observation.
    """
    start, stop = body.find(b"["), body.rfind(b"]") + 1
    if spec.dtype != "uint8" or not 0 <= start < stop:
        return None
    text, brackets = body[start:stop], b"[" * (len(spec.shape) + 1)
    if not text.startswith(brackets):
        return None
    if b" " in text:
        if not _only_after_commas(text):
            return None
        text = text.translate(None, b" ")
    numbers = _numbers(text)
    count, rest = divmod(len(numbers), spec.size)
    if rest or not count:
        return None
    frames = numbers.reshape(count, *spec.shape)
    if orjson.dumps(frames, option=orjson.OPT_SERIALIZE_NUMPY) != text:
        return None
    return frames, b"%b%d%b" % (body[:start], PLACE, body[stop:])


def _only_after_commas(text: bytes) -> bool:
    """Whether each blank follows a comma; between digits one would be lost unseen."""
    characters = np.frombuffer(text, np.uint8)
    after = characters[1:] == _BLANK
    return text[:1] != b" " and not (after & (characters[:-1] != _COMMA)).any()


def _numbers(text: bytes) -> Any:
    """The value of each run of digits, modulo 256; of longer ones the last three digits'."""
    digits = np.frombuffer(text, np.uint8) - np.uint8(_ZERO)  # others are 10 or more
    is_digit = digits < 10
    ends = np.flatnonzero(is_digit[:-1] > is_digit[1:])
    digits *= is_digit
    values = digits.astype(np.uint16)
    values[1:] += digits[:-1] * np.uint16(10)
    values[2:] += (digits[:-2] * is_digit[1:-1]) * np.uint16(100)
    return values.take(ends).astype(np.uint8)
