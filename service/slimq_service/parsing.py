"""What a request's body says: observations as JSON, raw bytes or npy, checked before they are used.

A body is read in two steps, because JSON may name the variant, and only the variant's policy says
what an observation looks like: `parse` reads the envelope, `Envelope.observations` the numbers.
orjson holds the interpreter's lock while it reads, about 0.4 µs for each list, so that 8 MiB of
empty lists would keep every other request waiting for a second: they are counted before.
"""

from __future__ import annotations

import io
import itertools
import math
import operator
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from slimq.core.errors import (
    InvalidInputError,
    LimitError,
    MalformedError,
    ObservationError,
    suggestion,
)
from slimq.core.observation import Observations, ObservationSpec

JSON = "application/json"
RAW = "application/octet-stream"
NPY = "application/x-npy"
MEDIA_TYPES = (JSON, RAW, NPY)
FIELD = "observations"
KEYS = (FIELD, "variant")
LONGEST_NAME = 64
"""Characters of a variant's name, as the repository's rule for names has it."""
SPARE_LISTS = 4096
"""Lists in a JSON body beyond those that a full batch needs; what is wrong with so few is said."""

_NOT_JSON = re.compile(rb"-?(?:nan|inf(?:inity)?)", re.IGNORECASE)
_KEY = re.compile(rb'"(observations|variant)"\s*:')
_NUMBERS = frozenset((int, float))


@dataclass(frozen=True)
class Envelope:
    """A body that was read but not yet checked against a policy.

    Attributes:
        media_type: one of `MEDIA_TYPES`.
        content: nested lists, raw bytes or an array, by media type.
        variant: the variant that the body names.
    """

    media_type: str
    content: Any
    variant: str | None = None

    def observations(self, spec: ObservationSpec, max_batch: int) -> Observations:
        """The observations `(batch, *shape)`.

        Raises:
            ObservationError: they do not fit the spec.
            LimitError: there are more than `max_batch`.
        """
        if self.media_type == RAW:
            count = len(self.content) // spec.item_bytes
            _check_count(count, max_batch)
            return spec.from_bytes(self.content)
        if self.media_type == NPY:
            array: npt.NDArray[Any] = self.content
            if array.ndim == len(spec.shape) + 1:
                _check_count(array.shape[0], max_batch)
            return spec.check(array, "body")
        return _from_lists(self.content, spec, max_batch)


def parse(media_type: str, body: bytes, spec: ObservationSpec, max_batch: int) -> Envelope:
    """Reads the envelope of a body of one of `MEDIA_TYPES`.

    Args:
        media_type: what the body is.
        body: all of it.
        spec: the policy's observations, which bound the lists of a JSON body.
        max_batch: most observations.

    Raises:
        MalformedError: it is not what its media type says.
        LimitError: JSON with far more lists than `max_batch` observations are made of.
        InvalidInputError: a JSON key is missing, unknown or of the wrong type.
    """
    if media_type == RAW:
        return Envelope(media_type, body)
    if media_type == NPY:
        return Envelope(media_type, read_npy(body))
    _check_lists(body, spec, max_batch)
    document = _load_json(body)
    if not isinstance(document, dict):
        raise InvalidInputError("body", "a JSON object with observations", _kind(document))
    for key in document:
        if key not in KEYS:
            expected, hint = f"the keys {' and '.join(KEYS)}", suggestion(key, KEYS)
            raise InvalidInputError("body", expected, repr(key), hint)
    if FIELD not in document:
        raise InvalidInputError(FIELD, "a list of observations", "no such key")
    variant = document.get("variant")
    if variant is not None and not isinstance(variant, str):
        raise InvalidInputError("variant", "the name of a variant", _kind(variant))
    if variant is not None and len(variant) > LONGEST_NAME:
        expected = f"a name of at most {LONGEST_NAME} characters"
        raise InvalidInputError("variant", expected, f"{len(variant)} characters")
    return Envelope(media_type, document[FIELD], variant)


def read_npy(body: bytes) -> npt.NDArray[Any]:
    """The array of an npy file (format 1.0 or 2.0), without a copy; never unpickles.

    The header is checked against the bytes that are there before anything is allocated.

    Raises:
        MalformedError: it is not npy, holds no numbers, or its length is not what its header says.
    """
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran, dtype = readers[version](stream, max_header_size=4096)
    except Exception as error:  # the header is Python source: its reader raises all sorts
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MalformedError("body", "an npy file (format 1.0 or 2.0)", problem) from None
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise MalformedError("body", "an npy file of numbers", f"dtype {dtype}")
    if len(shape) > 16 or not all(type(n) is int and 0 <= n <= len(body) for n in shape):
        expected = f"an npy file of up to 16 dimensions, each from 0 to {len(body)} long"
        raise MalformedError("body", expected, f"shape ({', '.join(map(_length, shape))})")
    needed, present = math.prod(shape) * dtype.itemsize, len(body) - stream.tell()
    if needed != present:
        expected = f"{needed} bytes after the npy header (dtype {dtype}, shape {shape})"
        raise MalformedError("body", expected, f"{present} bytes")
    try:
        flat = np.frombuffer(body, dtype=dtype, offset=stream.tell())
        native = flat.astype(dtype.newbyteorder("="), copy=False)
        return native.reshape(shape, order="F" if fortran else "C")
    except (ValueError, TypeError) as error:  # an empty array may have any number of other sides
        raise MalformedError("body", "an npy file with a valid shape", str(error)) from None


def _check_lists(body: bytes, spec: ObservationSpec, max_batch: int) -> None:
    """Counts what a JSON body could be made of: brackets, braces and colons, in strings as well."""
    each = sum(itertools.accumulate(spec.shape[:-1], operator.mul, initial=1))
    most = max_batch * each + SPARE_LISTS
    if len(body) > most and (count := sum(map(body.count, (b"[", b"{", b":")))) > most:
        received = f"a body of {count} lists, objects and keys"
        raise LimitError(FIELD, max_batch, received, "observations")


def _load_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # Its position counts characters where the body is UTF-8, bytes where it is not.
        text = body.decode("utf-8", "replace")
        start = error.pos - text[: error.pos].endswith("-")
        before = text[:start].encode()
        token = _NOT_JSON.match(text[start : start + 16].encode())
        keys = _KEY.findall(before)
        field = keys[-1].decode() if keys else "body"
        if token is not None:
            received = f"{token.group().decode()} at byte {len(before)}"
            raise ObservationError(field, "finite numbers", received) from None
        raise MalformedError(field, "valid JSON", str(error)) from None


def _from_lists(value: Any, spec: ObservationSpec, max_batch: int) -> Observations:
    depth = _depth(value, len(spec.shape) + 2)
    shape = ", ".join(map(str, spec.shape))
    expected = f"a list of shape (batch, {shape})"
    if depth == 0:
        raise ObservationError(FIELD, expected, _kind(value))
    if value == []:
        raise ObservationError(FIELD, "a batch of at least 1", "an empty batch")
    if depth == len(spec.shape):
        value, dims = [value], (1, *spec.shape)
    elif depth == len(spec.shape) + 1:
        _check_count(len(value), max_batch)
        dims = (len(value), *spec.shape)
    else:
        raise ObservationError(FIELD, expected, f"lists nested {depth} deep")
    rows: list[Any] = [value]
    for axis, dim in enumerate(dims):
        if set(map(type, rows)) != {list} or set(map(len, rows)) != {dim}:
            index = next(
                i for i, row in enumerate(rows) if type(row) is not list or len(row) != dim
            )
            row = rows[index]
            received = f"{len(row)} elements" if type(row) is list else _kind(row)
            raise ObservationError(_place(index, dims[:axis]), f"{dim} elements", received)
        rows = list(itertools.chain.from_iterable(rows))
    if not _NUMBERS.issuperset(map(type, rows)):
        index = next(i for i, number in enumerate(rows) if type(number) not in _NUMBERS)
        raise ObservationError(_place(index, dims), "a number", _kind(rows[index]))
    return spec.check(_numbers(rows, spec).reshape(dims), FIELD)


def _numbers(rows: list[Any], spec: ObservationSpec) -> npt.NDArray[Any]:
    if spec.dtype == "uint8":
        try:
            return np.frombuffer(bytes(rows), dtype=np.uint8)
        except (TypeError, ValueError):  # fractions, or out of range: check() names the value
            pass
    return np.array(rows, dtype=np.float64)


def _check_count(count: int, max_batch: int) -> None:
    if count > max_batch:
        raise LimitError(FIELD, max_batch, f"{count} observations", "observations")


def _depth(value: Any, deepest: int) -> int:
    depth = 0
    while isinstance(value, list) and depth < deepest:
        depth += 1
        if not value:
            break
        value = value[0]
    return depth


def _place(index: int, dims: tuple[int, ...]) -> str:
    return FIELD + "".join(f"[{i}]" for i in (np.unravel_index(index, dims) if dims else ()))


def _length(length: int) -> str:
    return str(length) if abs(length) < 2**63 else "a number over 2**63"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    if isinstance(value, list):
        return f"a list of {len(value)} elements"
    return "an object" if isinstance(value, dict) else f"the number {value}"
