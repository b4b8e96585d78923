"""Observations that a user gives in an npz file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slimq.core.observation import ObservationPart, Observations, ObservationSpec
from slimq.importing.files.arrays import read_array, read_arrays
from slimq.importing.files.reading import read_file
from slimq.importing.source import describe_layout, refuse

KEY = "observations"
NPY = b"\x93NUMPY"
"""Beginning of an npy file."""
HELD_OUT_EVERY = 5
"""Of this many consecutive states, compression never sees the last."""
MIN_TO_SPLIT = 10
"""With fewer states than these, compression needs them all."""


def read_states(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Reads the arrays of an npz file, or the one of an npy file; pickled objects are refused.

    Raises:
        InvalidInputError: the file is something else, or damaged.
    """
    content, name = read_file(path), str(path)
    if content.startswith(NPY):
        return {KEY: read_array(content, name, "the array")}
    if content[:2] != b"PK":
        expected = f"an npz file with {KEY!r}, or with an array per part, or an npy file"
        raise refuse(name, expected, "another kind of file", "write it with numpy.savez")
    arrays = read_arrays(content, name)
    if not arrays:
        expected = f"an npz file with {KEY!r}, or with an array per part"
        raise refuse(name, expected, "an empty archive")
    return arrays


def states_for(
    arrays: Mapping[str, npt.NDArray[Any]], layout: ObservationSpec, name: str
) -> Observations:
    """The states as observations of a layout.

    Raises:
        ObservationError: they do not fit.
    """
    if set(arrays) == {KEY}:
        array = arrays[KEY]
        values = array.astype(np.uint8) if array.dtype == np.bool_ else array
        return layout.check(values, f"{name}: {KEY}")
    return layout.join(dict(arrays), name)


def split_states(states: Observations) -> tuple[Observations, Observations | None]:
    """Splits recorded states, `(states, *shape)`, always in the same way.

    Returns:
        The states that compression calibrates on, and every fifth state, which it never sees; None
        if there are too few to split.
    """
    if len(states) < MIN_TO_SPLIT:
        return states, None
    is_held_out = np.arange(len(states)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return states[~is_held_out], states[is_held_out]


def layout_of_states(
    arrays: Mapping[str, npt.NDArray[Any]],
    described: ObservationSpec | None,
    name: str,
    *,
    strict: bool = True,
) -> ObservationSpec:
    """The layout of states without an environment: that of the file, or of the arrays.

    Images may have their channels last where the file has them first, or the reverse.

    Args:
        arrays: by key.
        described: as the policy's file describes observations; None if it does not.
        name: name of the states' file in errors.
        strict: whether the policy takes nothing but the type that it describes; bytes are
            otherwise kept as such.

    Raises:
        InvalidInputError: there are parts, but the policy's file describes none; or the arrays fit
            no observations.
    """
    if set(arrays) != {KEY}:
        if described is None or described.parts is None:
            received = ", ".join(arrays)
            shown = "one array" if described is None else describe_layout(described)
            raise refuse(name, f"the key {KEY!r} alone ({shown})", received)
        parts = tuple(
            _as_given(part, arrays.get(part.name), strict=strict) for part in described.parts
        )
        return _changed(described, parts=parts)
    array = arrays[KEY]
    if described is not None and (strict or array.dtype != np.uint8):
        if described.parts is None and _is_swapped(array.shape[1:], described.shape):
            return _changed(described, shape=array.shape[1:])
        return described
    if array.ndim < 2 or array.dtype.kind not in "fiub":
        raise refuse(name, "numbers of shape (states, ...)", f"{array.dtype} {array.shape}")
    kind = "uint8" if array.dtype in (np.uint8, np.bool_) else "float32"
    if array.dtype.kind in "iu" and kind != "uint8":
        kind = "int32"
    high = 1.0 if array.dtype == np.bool_ else 255.0 if kind == "uint8" else None
    low = None if high is None else 0.0
    return ObservationSpec(dtype=kind, shape=array.shape[1:], low=low, high=high)


def _changed(layout: ObservationSpec, **changes: object) -> ObservationSpec:
    """A copy without what was computed from the old fields."""
    return ObservationSpec.model_validate({**layout.model_dump(), **changes})


def _as_given(
    part: ObservationPart, array: npt.NDArray[Any] | None, *, strict: bool
) -> ObservationPart:
    """The part, with the axes of an image as the states have them."""
    if array is None or part.categories is not None:
        return part
    changes: dict[str, object] = {}
    if _is_swapped(array.shape[1:], part.shape):
        changes["shape"] = array.shape[1:]
    if not strict and array.dtype == np.uint8:
        changes |= {"integer": True, "low": 0.0, "high": 255.0}
    return ObservationPart.model_validate({**part.model_dump(), **changes})


def _is_swapped(given: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether an image has its channels at the other end of its shape."""
    if len(shape) != 3 or given == shape:
        return False
    return given in ((*shape[1:], shape[0]), (shape[2], *shape[:2]))
