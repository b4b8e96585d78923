"""A vectorized parser for nested JSON lists of bytes.

JSON libraries create a list for every row and an object for every number. Here all digits of a body
are processed at once, as arrays, for the layout that nearly all clients send: integers separated by
a comma and at most one space. There is no validation up front: a result is valid if serializing it
gives the same bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from slimq.core.observation import ObservationSpec

PLACEHOLDER = 271_828_182_845_904_523
"""Replaces the array; a document that already holds this number is left to the JSON parser."""
CHUNK_BYTES = 2**20
"""Size of the chunks of a long text: the intermediate arrays take ten times as much."""

_COMMA, _SPACE, _ZERO = ord(","), ord(" "), ord("0")
_WHITESPACE = b" \t\r\n"
_PLACEHOLDER = b"%d" % PLACEHOLDER


def read_frames(body: bytes, spec: ObservationSpec) -> tuple[Any, bytes] | None:
    """Extracts the uint8 array `(batch, *shape)` from a JSON object.

    Args:
        body: a JSON object.
        spec: the layout of one observation.

    Returns:
        The array, and the object with `PLACEHOLDER` in its place. None if no value is such an
        array, the layout is another one, or there are other lists.
    """
    start, stop = body.find(b"["), body.rfind(b"]") + 1
    if spec.dtype != "uint8" or not 0 <= start < stop:
        return None
    before, text, after = body[:start], body[start:stop], body[stop:]
    if not text.startswith(b"[" * (len(spec.shape) + 1)):
        return None
    if before.rstrip(_WHITESPACE)[-1:] != b":" or after.lstrip(_WHITESPACE)[:1] not in (b",", b"}"):
        return None  # the array is only part of a value
    if _PLACEHOLDER in before or _PLACEHOLDER in after:
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
    return frames, before + _PLACEHOLDER + after


def _only_after_commas(text: bytes) -> bool:
    """Whether every space follows a comma: removing one between digits would join two numbers."""
    characters = np.frombuffer(text, np.uint8)
    after = characters[1:] == _SPACE
    return not (after & (characters[:-1] != _COMMA)).any()


def _numbers(text: bytes) -> Any:
    """The value of the last three digits of each run of digits, modulo 256."""
    found, start = [], 0
    while start < len(text):
        stop = text.find(b"]", start + CHUNK_BYTES) + 1 or len(text)
        found.append(_numbers_of(text[start:stop]))
        start = stop
    return found[0] if len(found) == 1 else np.concatenate(found)


def _numbers_of(text: bytes) -> Any:
    """As `_numbers`, for a text that does not end with a digit."""
    digits = np.frombuffer(text, np.uint8) - np.uint8(_ZERO)  # others are 10 or more
    is_digit = digits < 10
    ends = np.flatnonzero(is_digit[:-1] > is_digit[1:])
    digits *= is_digit
    values = digits.astype(np.uint16)
    values[1:] += digits[:-1] * np.uint16(10)
    values[2:] += (digits[:-2] * is_digit[1:-1]) * np.uint16(100)
    return values.take(ends).astype(np.uint8)
