"""Observations in MessagePack, with arrays as clients of openpi encode them.

An array is a map with `__ndarray__` (true), `dtype` (NumPy's, such as `<f4`), `shape` and `data`; a
scalar is one with `__npgeneric__`, `dtype` and `data`. openpi's keys are binary; strings will do.
https://github.com/Physical-Intelligence/openpi, packages/openpi-client, `msgpack_numpy.py`.

Maps are split into undecoded values first (`msgspec.Raw`). This checks the whole structure without
allocating anything, so that a declared length is only believed once all of its values are there.
Then each value is decoded as the type that is due in its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.msgpack import Decoder

from slimq.core.errors import InvalidInputError, ObservationError
from slimq.core.observation import Observations, ObservationSpec
from slimq_service.decoding.nested_lists import SPARE_LISTS, flatten, to_array
from slimq_service.errors import LimitError, MalformedError

T = TypeVar("T")

MAX_ENTRIES = 512
"""Entries of a map; an observation has at most half as many parts."""
MAX_AXES = 16
MAX_LIST_BYTES = 64 * 1024
"""Lists are decoded in the event loop, where a megabyte would take tens of milliseconds."""
ARRAY, SCALAR = "__ndarray__", "__npgeneric__"
ARRAY_KEYS = {ARRAY, "dtype", "shape", "data"}
SCALAR_KEYS = {SCALAR, "dtype", "data"}
_FORMS = ("b1", *(kind + size for kind in "ui" for size in "1248"), "f2", "f4", "f8")
DTYPES = frozenset(order + form for order in "<>|=" for form in _FORMS)
"""NumPy's names of the dtypes that arrays may have."""

_BY_STRING = Decoder(dict[str, msgspec.Raw])
_BY_BYTES = Decoder(dict[bytes, msgspec.Raw])
_ANY = Decoder(Any)
_FLAG = Decoder(bool)
_TEXT = Decoder(str)
_BYTES = Decoder(memoryview)
_NUMBER = Decoder(bool | int | float)
_SHAPE = Decoder(tuple[int, ...])

_KINDS = (
    (0x80, "a number"),
    (0x90, "a map"),
    (0xA0, "a list"),
    (0xC0, "a string"),
    (0xC1, "nil"),
    (0xC2, "an invalid byte"),
    (0xC4, "a boolean"),
    (0xC7, "bytes"),
    (0xCA, "an extension"),
    (0xD4, "a number"),
    (0xD9, "an extension"),
    (0xDC, "a string"),
    (0xDE, "a list"),
    (0xE0, "a map"),
    (0x100, "a number"),
)
"""What a value is by its first byte, each up to the byte that is given."""


def read_map(content: bytes | msgspec.Raw, field: str, expected: str) -> dict[str, msgspec.Raw]:
    """Splits a map into its values, which stay undecoded.

    Args:
        content: one value.
        field: name of the map in errors.
        expected: what the map should be, for errors.

    Raises:
        MalformedError: the content is not MessagePack, or has a key twice.
        InvalidInputError: it is not a map, or has keys that are neither strings nor bytes.
        LimitError: it has too many entries.
    """
    count = _entries(content)
    if count is not None and count > MAX_ENTRIES:
        raise LimitError(field, MAX_ENTRIES, f"{count} entries", "entries of a map")
    try:
        try:
            found: Mapping[Any, msgspec.Raw] = _BY_STRING.decode(content)
        except msgspec.ValidationError:  # keys of another type
            found = _BY_BYTES.decode(content)
    except msgspec.ValidationError:
        received = kind_of_value(content) if count is None else "a map with other kinds of keys"
        raise InvalidInputError(field, expected, received) from None
    except msgspec.DecodeError as error:
        raise MalformedError(field, "valid MessagePack", str(error)) from None
    except RecursionError:
        raise MalformedError(field, expected, "MessagePack that is nested too deeply") from None
    if len(found) != count:
        raise MalformedError(field, "each key once", f"{count} keys, {len(found)} different ones")
    return {_text(key): value for key, value in found.items()}


def read_flag(value: msgspec.Raw, field: str) -> bool:
    """Reads a boolean, or a NumPy scalar that is one.

    Raises:
        InvalidInputError: it is something else.
    """
    if _entries(value) is None:
        return _decode(_FLAG, value, field, "true or false")
    array = read_array(value, field)
    if array.dtype != np.bool_ or array.ndim:
        received = f"an array of dtype {array.dtype} and shape {array.shape}"
        raise InvalidInputError(field, "true or false", received)
    return bool(array)


def read_text(value: msgspec.Raw, field: str, expected: str) -> str:
    """Reads a string.

    Raises:
        InvalidInputError: it is something else.
    """
    return _decode(_TEXT, value, field, expected)


def read_observation(value: msgspec.Raw, spec: ObservationSpec, field: str) -> Observations:
    """Reads one observation `(1, *shape)`: an array, lists, or a map with such a value per part.

    Raises:
        ObservationError: it does not match the spec.
        MalformedError: an array contradicts itself.
        InvalidInputError: a value is of the wrong type.
        LimitError: lists are too long.
    """
    if spec.parts is not None and _entries(value) is not None:
        found = read_map(value, field, "a map")
        if not (found.keys() & {ARRAY, SCALAR}):
            shapes = {part.name: part.shape for part in spec.parts}
            return spec.join(_read_parts(found, shapes, spec, field), field)
    return spec.check(_read_numbers(value, spec.shape, spec, field), field)


def read_array(value: msgspec.Raw, field: str) -> npt.NDArray[Any]:
    """Reads an array without a copy, or a scalar as an array without axes.

    Raises:
        InvalidInputError: a key is missing, unknown or of the wrong type.
        ObservationError: the dtype is not one of numbers.
        MalformedError: shape and length contradict each other.
    """
    expected = f"an array: a map with the keys {', '.join(sorted(ARRAY_KEYS))}"
    found = read_map(value, field, expected)
    keys = SCALAR_KEYS if SCALAR in found else ARRAY_KEYS
    if found.keys() != keys:
        raise InvalidInputError(field, expected, f"the keys {', '.join(map(repr, found))}"[:200])
    mark = SCALAR if SCALAR in found else ARRAY
    if not _decode(_FLAG, found[mark], f"{field}.{mark}", "true"):
        raise InvalidInputError(f"{field}.{mark}", "true", "false")
    dtype = _decode(_TEXT, found["dtype"], f"{field}.dtype", "the name of a dtype, such as '<f4'")
    if dtype not in DTYPES:
        expected = "NumPy's name of a dtype of numbers, such as '<f4' or '|u1'"
        raise ObservationError(f"{field}.dtype", expected, repr(dtype[:40]))
    if mark == SCALAR:
        return np.array(_decode(_NUMBER, found["data"], f"{field}.data", "a number"))
    data = _decode(_BYTES, found["data"], f"{field}.data", "bytes")
    shape = _read_shape(found["shape"], len(data), f"{field}.shape")
    needed = math.prod(shape) * np.dtype(dtype).itemsize
    if needed != len(data):
        expected = f"{needed:.15g} bytes (dtype {dtype}, shape {shape})"
        raise MalformedError(f"{field}.data", expected, f"{len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape)


def kind_of_value(content: bytes | msgspec.Raw) -> str:
    """What a value is, in a few words, for errors."""
    first = bytes(memoryview(content)[:1])
    if not first:
        return "nothing"
    return next(kind for end, kind in _KINDS if first[0] < end)


def _read_parts(
    found: Mapping[str, msgspec.Raw],
    shapes: Mapping[str, tuple[int, ...]],
    spec: ObservationSpec,
    field: str,
) -> Mapping[str, Any]:
    """The numbers of each part; names alone if they are not those of the parts, for the error."""
    if found.keys() != shapes.keys():
        return found
    return {
        name: _read_numbers(found[name], shape, spec, f"{field}.{name}")
        for name, shape in shapes.items()
    }


def _read_numbers(
    value: msgspec.Raw, shape: tuple[int, ...], spec: ObservationSpec, field: str
) -> npt.NDArray[Any]:
    if _entries(value) is not None:
        array = read_array(value, field)
        if array.shape not in (shape, (1, *shape)):
            raise ObservationError(field, f"an array of shape {shape}", f"shape {array.shape}")
        return array
    return to_array(_read_lists(value, shape, field), spec).reshape(shape)


def _read_lists(value: msgspec.Raw, shape: tuple[int, ...], field: str) -> list[Any]:
    """The numbers of nested lists, row by row.

    Lists of the wrong kind or length are refused where they begin; if the value is short, it is
    then decoded as it is, to name the element.
    """
    size = len(memoryview(value))
    if size > MAX_LIST_BYTES:
        raise LimitError(field, MAX_LIST_BYTES, f"{size} bytes", "bytes of lists; send an array")
    kind: Any = int | float
    for length in reversed(shape):
        kind = Annotated[list[kind], msgspec.Meta(min_length=length, max_length=length)]
    try:
        lists = Decoder(kind).decode(value)
    except msgspec.ValidationError as error:
        if size > SPARE_LISTS:
            expected = f"an array or lists of shape {shape}"
            raise ObservationError(field, expected, f"others ({error})") from None
        lists = _decode(_ANY, value, field, "an array, or lists of numbers")
    return flatten(lists, shape, field)


def _read_shape(value: msgspec.Raw, size: int, field: str) -> tuple[int, ...]:
    """The lengths of the axes of an array of this many bytes, none of which can be greater."""
    expected = f"a list of at most {MAX_AXES} lengths from 0 to {size}, the bytes of data"
    if len(memoryview(value)) > 9 * MAX_AXES + 5:
        raise InvalidInputError(field, expected, "a longer value")
    shape = _decode(_SHAPE, value, field, expected)
    if len(shape) > MAX_AXES or not all(0 <= length <= size for length in shape):
        raise InvalidInputError(field, expected, str(shape))
    return shape


def _decode(decoder: Decoder[T], value: msgspec.Raw, field: str, expected: str) -> T:
    try:
        return decoder.decode(value)
    except msgspec.ValidationError:
        raise InvalidInputError(field, expected, kind_of_value(value)) from None
    except (msgspec.DecodeError, TypeError) as error:  # TypeError: a key that is a map
        raise MalformedError(field, "valid MessagePack", str(error)) from None
    except RecursionError:
        raise MalformedError(field, expected, "lists that are nested too deeply") from None


def _entries(content: bytes | msgspec.Raw) -> int | None:
    """The number of entries that a map declares; None if the value is not a map."""
    head = bytes(memoryview(content)[:5])
    if head[:1] == b"\xde":
        return int.from_bytes(head[1:3])
    if head[:1] == b"\xdf":
        return int.from_bytes(head[1:5])
    return head[0] & 0x0F if head and head[0] & 0xF0 == 0x80 else None


def _text(key: str | bytes) -> str:
    return key if isinstance(key, str) else key.decode("utf-8", "replace")
