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

PLACE = 271_828_182_845_904_523
"""Stands where the array was; a document that has this number already is left to others."""
PIECE_BYTES = 2**20
"""Of a longer text, so much at a time: the arrays in between take ten times as much."""

_COMMA, _BLANK, _ZERO = ord(","), ord(" "), ord("0")
_SPACE = b" \t\r\n"
_PLACE = b"%d" % PLACE


def read_frames(body: bytes, spec: ObservationSpec) -> tuple[Any, bytes] | None:
    """The array `(batch, *shape)` of uint8 in a JSON object, and the object without it.

    None where no value is such an array, it is not of that layout, or there are other lists.

    Args:
        body: an object.
        spec: the layout of an observation.
    """
    start, stop = body.find(b"["), body.rfind(b"]") + 1
    if spec.dtype != "uint8" or not 0 <= start < stop:
        return None
    before, text, after = body[:start], body[start:stop], body[stop:]
    if not text.startswith(b"[" * (len(spec.shape) + 1)):
        return None
    if before.rstrip(_SPACE)[-1:] != b":" or after.lstrip(_SPACE)[:1] not in (b",", b"}"):
        return None  # the array is no whole value
    if _PLACE in before or _PLACE in after:
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
    return frames, before + _PLACE + after


def _only_after_commas(text: bytes) -> bool:
    """Whether each blank follows a comma; between digits one would be lost unseen."""
    characters = np.frombuffer(text, np.uint8)
    after = characters[1:] == _BLANK
    return not (after & (characters[:-1] != _COMMA)).any()


def _numbers(text: bytes) -> Any:
    """The value of each run of digits, modulo 256; of longer ones the last three digits'."""
    found, start = [], 0
    while start < len(text):
        stop = text.find(b"]", start + PIECE_BYTES) + 1 or len(text)
        found.append(_numbers_of(text[start:stop]))
        start = stop
    return found[0] if len(found) == 1 else np.concatenate(found)


def _numbers_of(text: bytes) -> Any:
    """Those of a text that ends with no digit."""
    digits = np.frombuffer(text, np.uint8) - np.uint8(_ZERO)  # others are 10 or more
    is_digit = digits < 10
    ends = np.flatnonzero(is_digit[:-1] > is_digit[1:])
    digits *= is_digit
    values = digits.astype(np.uint16)
    values[1:] += digits[:-1] * np.uint16(10)
    values[2:] += (digits[:-2] * is_digit[1:-1]) * np.uint16(100)
    return values.take(ends).astype(np.uint8)
