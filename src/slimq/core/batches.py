"""Converts what environments return to batches: arrays, and mappings and tuples of arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from slimq.core.errors import ObservationError
from slimq.core.observation import Observations, ObservationSpec


def as_batch(spec: ObservationSpec, observations: Any, field: str = "observations") -> Observations:
    """Converts observations to a batch `(batch, *shape)` and checks it.

    Args:
        spec: the layout of one observation.
        observations: `(batch, *shape)` or one observation. For named parts also a mapping of such
            arrays by name, nested or with names joined by dots, or a tuple of them. For a single
            part also an array of its own shape, such as the number of a Discrete space.
        field: name of the observations in errors.

    Raises:
        ObservationError: they do not fit the spec; the error names the part.
    """
    if isinstance(observations, Mapping):
        return spec.join(_named_parts(observations, field), field)
    if isinstance(observations, tuple) and spec.parts is not None:
        values = _named_parts(observations, field)
        if values.keys() == {part.name for part in spec.parts}:  # else a sequence of numbers
            return spec.join(values, field)
    try:
        array = np.asarray(observations)
    except ValueError:
        expected = "a rectangular array"
        raise ObservationError(field, expected, "lists of unequal lengths") from None
    if _is_only_part(spec, array.shape):
        return spec.join({part.name: array for part in spec.parts or ()}, field)
    return spec.check(array.astype(np.uint8) if array.dtype == np.bool_ else array, field)


def _is_only_part(spec: ObservationSpec, shape: tuple[int, ...]) -> bool:
    """Whether a shape is that of the only part, such as the number of a Discrete space."""
    if spec.parts is None or len(spec.parts) > 1 or spec.shape in (shape, shape[1:]):
        return False
    return spec.parts[0].shape in (shape, shape[1:])


def _named_parts(observations: Any, field: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in _leaves("", observations):
        if name in found:
            raise ObservationError(field, "each part once", f"two parts {name!r}")
        found[name] = value
    return found


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the values in nested mappings and tuples, named by keys and indices joined by dots."""
    if isinstance(value, Mapping):
        entries: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, tuple):
        entries = enumerate(value)
    else:
        yield name, value
        return
    for key, entry in entries:
        yield from _leaves(f"{name}.{key}" if name else str(key), entry)
