"""Batches of observations from parsed JSON: nested lists, or an object with one list per part."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from slimq.core.errors import ObservationError
from slimq.core.observation import Observations, ObservationSpec
from slimq_service.decoding.nested_lists import (
    check_count,
    flatten,
    kind_of,
    read_vectors,
    to_array,
)

_MAX_NAMES = 8


def read_batch(value: Any, spec: ObservationSpec, max_batch: int, field: str) -> Observations:
    """Converts nested lists, or an object with the named parts of a batch, to observations.

    Args:
        value: `(batch, *shape)` or a single observation, or such a value for each part by name.
        spec: the layout of one observation.
        max_batch: maximum number of observations.
        field: name of the value in errors.

    Raises:
        ObservationError: the value does not match the spec.
        LimitError: there are more than `max_batch` observations.
    """
    # Integers are checked before float32 rounds them, so vectors that hold some take the long way.
    if len(spec.shape) == 1 and spec.dtype == "float32" and spec.integer_ranges is None:
        vectors = read_vectors(value, spec.shape[0])
        if vectors is not None:
            check_count(len(vectors), max_batch, field)
            return vectors
    if spec.parts is not None and type(value) is dict:
        return _read_parts(value, spec, max_batch, field)
    if spec.parts is not None:
        _check_form(value, spec, field)
    return spec.check(_read_lists(value, spec.shape, spec, max_batch, field), field)


def _check_form(value: Any, spec: ObservationSpec, field: str) -> None:
    """Refuses lists that are not flat observations with parts; the error shows the right form."""
    lengths, first = _infer_shape(value, 3)
    is_object, is_number = isinstance(first, dict), type(first) in (int, float)
    if not (is_object or len(lengths) > 2 or (is_number and lengths[-1:] != (spec.size,))):
        return
    parts = spec.parts or ()
    names = ", ".join(repr(part.name) for part in parts[:_MAX_NAMES])
    more = ", …" if len(parts) > _MAX_NAMES else ""
    noun = "part" if len(parts) == 1 else "parts"
    form = f"an object with the {noun} {names}{more}, a batch in each"
    shape = ", ".join(map(str, lengths)) + (", …" if isinstance(first, list) and first else "")
    received = "a list of objects" if is_object else f"a list of shape ({shape})"
    if not lengths:
        received = kind_of(value)
    expected = f"{form}, or a list of shape (batch, {spec.size})"
    raise ObservationError(field, expected, received)


def _read_parts(
    values: dict[str, Any], spec: ObservationSpec, max_batch: int, field: str
) -> Observations:
    parts = spec.parts or ()
    if len(values) == len(parts) and all(part.name in values for part in parts):
        values = {
            part.name: _read_lists(
                values[part.name], part.shape, spec, max_batch, f"{field}.{part.name}"
            )
            for part in parts
        }
    return spec.join(values, field)  # which reports a part that is missing or unknown


def _read_lists(
    value: Any, shape: tuple[int, ...], spec: ObservationSpec, max_batch: int, field: str
) -> npt.NDArray[Any]:
    """Numbers of observations, or of one of their parts, `(batch, *shape)`, from nested lists."""
    rank = len(shape)
    lengths, first = _infer_shape(value, rank + 2)
    depth = len(lengths)
    expected = f"a list of shape ({', '.join(map(str, ('batch', *shape)))})"
    if depth == 0 and rank:
        raise ObservationError(field, expected, kind_of(value))
    if value == []:
        raise ObservationError(field, "a batch of at least 1", "an empty batch")
    if isinstance(first, dict) and depth <= rank:
        raise ObservationError(field + "[0]" * depth, "lists of numbers", kind_of(first))
    is_list_missing = depth <= rank and type(first) not in (int, float, list)
    if lengths == shape or (depth == rank and not is_list_missing):
        numbers, count = flatten(value, shape, field), 1
    elif depth == rank + 1 or is_list_missing:
        count = len(value)
        check_count(count, max_batch, field)
        numbers = flatten(value, (count, *shape), field)
    else:
        more = ", …" if isinstance(first, list) and first else ""
        received = f"a list of shape ({', '.join(map(str, lengths))}{more})"
        raise ObservationError(field, expected, received)
    array: npt.NDArray[Any] = to_array(numbers, spec).reshape(count, *shape)
    return array


def _infer_shape(value: Any, max_depth: int) -> tuple[tuple[int, ...], Any]:
    """The lengths of nested lists along their first elements, and the innermost first element."""
    lengths: list[int] = []
    while isinstance(value, list) and len(lengths) < max_depth:
        lengths.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(lengths), value
