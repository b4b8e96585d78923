"""Numbers from the nested lists of a JSON body.

orjson holds the interpreter's lock while it reads, about 0.4 µs for each list and 0.05 µs for each
number, so that 8 MiB of empty lists would keep every other request waiting for a second: what a
body is made of is counted before.
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
"""Lists in a JSON body beyond those that a full batch needs, and numbers likewise; what is wrong
with so few is said."""
SEARCHED_BYTES = 64 * 1024
"""At each end of what comes before an error in JSON: in these, the key to name it by is sought."""

MAX_FLOAT32 = float(np.finfo(np.float32).max)
TYPED_ARRAY = "a JavaScript typed array? send Array.from(array)"
BUFFER = "a Node.js Buffer? send Array.from(buffer)"
MAX_SHOWN = 40
"""Characters of a string or a key that an error repeats."""
MAX_KEYS = 2
"""Keys of an object that an error names."""

_CONTAINERS = b"[{:"
_SEPARATORS = b',"'
_NOT_JSON = re.compile(rb"-?(?:nan|inf(?:inity)?)", re.IGNORECASE)
_NUMBERS = frozenset((int, float))


def check_lists(body: bytes, spec: ObservationSpec, max_batch: int, field: str) -> None:
    """Counts what a JSON body could be made of: lists, keys, numbers and strings, by their signs.

    Raises:
        LimitError: they are far more than `max_batch` observations are made of.
    """
    if len(body) <= SPARE_LISTS:
        return
    each = sum(itertools.accumulate(spec.shape[:-1], operator.mul, initial=1))
    most = max_batch * each + SPARE_LISTS
    if len(body) > most and (count := _count(body, _CONTAINERS)) > most:
        received = f"a body of {count} lists, objects and keys"
        if 2 * _count(body, b":") > count:
            received += f" ({TYPED_ARRAY})"
        raise LimitError(field, max_batch, received, "observations")
    most = max_batch * math.prod(spec.shape) + SPARE_LISTS
    if len(body) > most and (count := _count(body, _SEPARATORS)) > most:
        raise LimitError(field, max_batch, f"a body of {count} commas and quotes", "observations")


def _count(body: bytes, characters: bytes) -> int:
    """How many of these there are; without the interpreter's lock, which `bytes.count` holds."""
    content = np.frombuffer(body, np.uint8)
    return sum(int(np.count_nonzero(content == character)) for character in characters)


def load_json(body: bytes, keys: Sequence[str], whole: str = "body") -> Any:
    """The document of a body.

    Args:
        body: UTF-8.
        keys: those after which an error names its place.
        whole: the place that an error names before any of them.

    Raises:
        MalformedError: it is not JSON.
        ObservationError: it has NaN or an infinity where a number should be.
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
    """Where a character of UTF-8 begins; where the body is none, positions are 0."""
    if body.isascii():
        return position
    begins = np.flatnonzero((np.frombuffer(body, np.uint8) & 0xC0) != 0x80)
    return int(begins[position]) if position < len(begins) else len(body)


def _last_key(body: bytes, stop: int, keys: Sequence[str]) -> str | None:
    """The last of the keys before a place, as far as it is near or at the start of the body."""
    pattern = re.compile(rf'"({"|".join(keys)})"\s*:'.encode())
    for part in (body[max(0, stop - SEARCHED_BYTES) : stop], body[: min(stop, SEARCHED_BYTES)]):
        if passed := pattern.findall(part):
            return str(passed[-1].decode())
    return None


def read_vectors(value: Any, length: int) -> npt.NDArray[np.float32] | None:
    """Lists of numbers as an array `(batch, length)`, without the checks that place an error.

    Args:
        value: from JSON, so that no number is NaN.
        length: of each list.

    Returns:
        None unless all of it are numbers that float32 holds, in lists of this length.
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
    """The numbers of nested lists of these dimensions, row by row.

    Raises:
        ObservationError: a list has another length, or something is neither a list nor a number
            where one should be; with its place.
    """
    rows: list[Any] = [value]
    for axis, dim in enumerate(dims):
        if set(map(type, rows)) != {list} or set(map(len, rows)) != {dim}:
            index = next(
                i for i, row in enumerate(rows) if type(row) is not list or len(row) != dim
            )
            elements = "numbers" if axis == len(dims) - 1 else "lists"
            expected, received = f"a list of {dim} {elements}", kind_of(rows[index])
            raise ObservationError(_place(field, index, dims[:axis]), expected, received)
        rows = list(itertools.chain.from_iterable(rows))
    if not _NUMBERS.issuperset(map(type, rows)):
        index = next(i for i, number in enumerate(rows) if type(number) not in _NUMBERS)
        raise ObservationError(_place(field, index, dims), "a number", kind_of(rows[index]))
    return rows


def to_array(numbers: list[Any], spec: ObservationSpec) -> npt.NDArray[Any]:
    """The numbers as an array that the spec can check."""
    if spec.dtype == "uint8":
        try:
            return np.frombuffer(bytes(numbers), dtype=np.uint8)
        except (TypeError, ValueError):  # fractions, or out of range: check() names the value
            pass
    return np.array(numbers, dtype=np.float64)


def check_count(count: int, max_batch: int, field: str) -> None:
    """Holds a batch to its limit.

    Raises:
        LimitError: it is over it.
    """
    if count > max_batch:
        raise LimitError(field, max_batch, f"{count} observations", "observations")


def kind_of(value: Any) -> str:
    """A JSON value in a few words, for an error to say what was received."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        cut = len(value) > MAX_SHOWN
        return f"the string {value[:MAX_SHOWN]!r}" + (f"… ({len(value)} characters)" if cut else "")
    if isinstance(value, list):
        return f"a list of {len(value)} element{'s' * (len(value) != 1)}"
    return _kind_of_object(value) if isinstance(value, dict) else f"the number {value}"


def is_typed_array(value: dict[str, Any]) -> bool:
    """Whether an object is what JavaScript's `JSON.stringify` makes of a typed array."""
    return bool(value) and all(key == str(i) for i, key in enumerate(value))


def _kind_of_object(value: dict[str, Any]) -> str:
    if not value:
        return "an empty object"
    keys = [
        json.dumps(k[:MAX_SHOWN], ensure_ascii=False) for k in itertools.islice(value, MAX_KEYS)
    ]
    shown = ", ".join([*keys, "…"] if len(value) > MAX_KEYS else keys)
    described = f"an object with the key{'s' * (len(value) != 1)} {shown}"
    if is_typed_array(value):
        return f"{described} ({TYPED_ARRAY})"
    return f"{described} ({BUFFER})" if value.get("type") == "Buffer" else described


def _place(field: str, index: int, dims: tuple[int, ...]) -> str:
    return field + "".join(f"[{i}]" for i in (np.unravel_index(index, dims) if dims else ()))
