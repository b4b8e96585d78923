"""Numbers from the nested lists of a JSON body.

orjson holds the GIL while it parses, about 0.4 µs per list and 0.05 µs per number, so 8 MiB of
empty lists would stall every other request for a second. That is why lists and values are counted
before a body is parsed.
"""

from __future__ import annotations

import itertools
import json
import math
import operator
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from slimq.core.errors import ObservationError
from slimq.core.observation import ObservationSpec
from slimq_service.errors import LimitError, MalformedError

SPARE_LISTS = 4096
"""Lists, and numbers, tolerated beyond those of a full batch: the error in such a body is found by
parsing it, and is more precise."""
SEARCHED_BYTES = 64 * 1024
"""Bytes searched for the key that an error belongs to: before the error, and from the start."""

MAX_FLOAT32 = float(np.finfo(np.float32).max)
TYPED_ARRAY = "a JavaScript typed array? send Array.from(array)"
BUFFER = "a Node.js Buffer? send Array.from(buffer)"
MAX_SHOWN = 40
"""Characters of a string or key quoted in an error."""
MAX_KEYS = 2
"""Keys of an object quoted in an error."""

_CONTAINERS = b"[{:"
_SEPARATORS = b',"'
_NOT_JSON = re.compile(rb"-?(?:nan|inf(?:inity)?)", re.IGNORECASE)
_NUMBERS = frozenset((int, float))


def check_lists(body: bytes, spec: ObservationSpec, max_batch: int, field: str) -> None:
    """Counts the brackets, colons, commas and quotes of a JSON body.

    Raises:
        LimitError: there are far more than in `max_batch` observations.
    """
    if len(body) <= SPARE_LISTS:
        return
    shapes = [spec.shape] if spec.parts is None else [part.shape for part in spec.parts]
    lists_each = sum(map(_count_lists, shapes))
    limit = max_batch * lists_each + SPARE_LISTS
    if len(body) > limit and (count := _count(body, _CONTAINERS)) > limit:
        received = f"a body of {count} lists, objects and keys"
        if 2 * _count(body, b":") > count:
            received += f" ({TYPED_ARRAY})"
        raise LimitError(field, max_batch, received, "observations")
    limit = max_batch * math.prod(spec.shape) + SPARE_LISTS
    if len(body) > limit and (count := _count(body, _SEPARATORS)) > limit:
        raise LimitError(field, max_batch, f"a body of {count} commas and quotes", "observations")


def _count_lists(shape: tuple[int, ...]) -> int:
    """Lists in an array of this shape, itself included."""
    return sum(itertools.accumulate(shape[:-1], operator.mul, initial=1))


def _count(body: bytes, characters: bytes) -> int:
    """Counts characters without holding the GIL, as `bytes.count` would."""
    content = np.frombuffer(body, np.uint8)
    return sum(int(np.count_nonzero(content == character)) for character in characters)


def load_json(body: bytes, keys: Sequence[str], whole: str = "body") -> Any:
    """Parses a JSON body.

    Args:
        body: UTF-8.
        keys: the keys that an error may name as its field.
        whole: the field of an error before any of those keys.

    Raises:
        MalformedError: the body is not JSON.
        ObservationError: the body contains NaN or an infinity.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        at = _byte_of(body, error.pos)
        start = at - (body[max(at - 1, 0) : at] == b"-")
        token = _NOT_JSON.match(body[start : start + 16])
        field = _last_key(body, start, keys) or whole
        if token is not None:
            received = f"{token.group().decode()} at byte {start}"
            raise ObservationError(field, "finite numbers", received) from None
        raise MalformedError(field, "valid JSON", str(error)) from None


def _byte_of(body: bytes, position: int) -> int:
    """The byte offset of a character; orjson reports position 0 if the body is not UTF-8."""
    if body.isascii():
        return position
    starts = np.flatnonzero((np.frombuffer(body, np.uint8) & 0xC0) != 0x80)
    return int(starts[position]) if position < len(starts) else len(body)


def _last_key(body: bytes, stop: int, keys: Sequence[str]) -> str | None:
    """The last of these keys before an offset, near it or near the start of the body."""
    pattern = re.compile(rf'"({"|".join(keys)})"\s*:'.encode())
    for part in (body[max(0, stop - SEARCHED_BYTES) : stop], body[: min(stop, SEARCHED_BYTES)]):
        if passed := pattern.findall(part):
            return str(passed[-1].decode())
    return None


def read_vectors(value: Any, length: int) -> npt.NDArray[np.float32] | None:
    """Converts lists of numbers to an array `(batch, length)`, without locating errors.

    Args:
        value: from JSON, so no number is NaN.
        length: length of each list.

    Returns:
        The array, or None unless the value consists of lists of this length, of numbers within the
        range of float32.
    """
    if type(value) is not list or not value:
        return None
    for row in value:
        if type(row) is not list or len(row) != length or not _NUMBERS.issuperset(map(type, row)):
            return None
        if max(row) > MAX_FLOAT32 or min(row) < -MAX_FLOAT32:
            return None
    return np.array(value, np.float32)


def flatten(value: Any, dims: tuple[int, ...], field: str) -> list[Any]:
    """Flattens nested lists of these dimensions, row by row.

    Raises:
        ObservationError: a list has the wrong length, or an element is not a list or number; names
            the element.
    """
    rows: list[Any] = [value]
    for axis, dim in enumerate(dims):
        if set(map(type, rows)) != {list} or set(map(len, rows)) != {dim}:
            index = next(
                i for i, row in enumerate(rows) if type(row) is not list or len(row) != dim
            )
            elements = "numbers" if axis == len(dims) - 1 else "lists"
            expected, received = f"a list of {dim} {elements}", kind_of(rows[index])
            raise ObservationError(_element(field, index, dims[:axis]), expected, received)
        rows = list(itertools.chain.from_iterable(rows))
    if not _NUMBERS.issuperset(map(type, rows)):
        index = next(i for i, number in enumerate(rows) if type(number) not in _NUMBERS)
        raise ObservationError(_element(field, index, dims), "a number", kind_of(rows[index]))
    return rows


def to_array(numbers: list[Any], spec: ObservationSpec) -> npt.NDArray[Any]:
    """Converts the numbers to an array for `ObservationSpec.check`."""
    if spec.dtype == "uint8":
        try:
            return np.frombuffer(bytes(numbers), dtype=np.uint8)
        except (TypeError, ValueError):  # fractions or out of range; check() names the value
            pass
    return np.array(numbers, dtype=np.float64)


def check_count(count: int, max_batch: int, field: str) -> None:
    """Checks a batch against its limit.

    Raises:
        LimitError: the batch exceeds it.
    """
    if count > max_batch:
        raise LimitError(field, max_batch, f"{count} observations", "observations")


def kind_of(value: Any) -> str:
    """Describes a value of JSON or MessagePack in a few words, for errors."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        cut = len(value) > MAX_SHOWN
        return f"the string {value[:MAX_SHOWN]!r}" + (f"… ({len(value)} characters)" if cut else "")
    if isinstance(value, list):
        return f"a list of {len(value)} element{'s' * (len(value) != 1)}"
    if isinstance(value, dict):
        return _kind_of_object(value)
    known = isinstance(value, int | float)
    return f"the number {value}" if known else f"a value of type {type(value).__name__}"


def is_typed_array(value: dict[str, Any]) -> bool:
    """Whether an object looks like a typed array serialized by JavaScript's `JSON.stringify`."""
    return bool(value) and all(key == str(i) for i, key in enumerate(value))


def _kind_of_object(value: dict[str, Any]) -> str:
    if not value:
        return "an empty object"
    keys = [
        json.dumps(str(key)[:MAX_SHOWN], ensure_ascii=False)
        for key in itertools.islice(value, MAX_KEYS)
    ]
    shown = ", ".join([*keys, "…"] if len(value) > MAX_KEYS else keys)
    described = f"an object with the key{'s' * (len(value) != 1)} {shown}"
    if is_typed_array(value):
        return f"{described} ({TYPED_ARRAY})"
    return f"{described} ({BUFFER})" if value.get("type") == "Buffer" else described


def _element(field: str, index: int, dims: tuple[int, ...]) -> str:
    return field + "".join(f"[{i}]" for i in (np.unravel_index(index, dims) if dims else ()))
