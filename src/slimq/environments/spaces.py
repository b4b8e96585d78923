"""Observation spaces as arrays: the layout of a space, and the encoding of its observations.

A Box is one array: uint8 and bool keep their bytes, everything else becomes float32. The leaves of
any other space become named parts of one vector, in the order of the space. Integers stay integers:
the network's graph one-hot encodes categories, as `gymnasium.spaces.flatten` would.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from pydantic import ValidationError

from slimq.core.errors import InvalidInputError, ObservationError
from slimq.core.observation import (
    FLOAT_INTEGERS,
    INTEGER_RANGES,
    Dtype,
    ObservationPart,
    ObservationSpec,
)

Space = gymnasium.Space[Any]

SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, or Dict and Tuple of these"
WHOLE = "observation"
"""Name of the only part of a space without names."""


@dataclass(frozen=True)
class Leaf:
    """A space without inner spaces.

    Attributes:
        path: keys and indices that lead to it.
        space: the space.
    """

    path: tuple[Any, ...]
    space: Space

    @property
    def name(self) -> str:
        """The path, joined with dots."""
        return ".".join(map(str, self.path)) or WHOLE


def leaves(space: Space, path: tuple[Any, ...] = ()) -> Iterator[Leaf]:
    """The leaves of a space, depth first, in the order of the space."""
    if isinstance(space, gymnasium.spaces.Dict):
        for key, inner in space.spaces.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(space, gymnasium.spaces.Tuple):
        for index, inner in enumerate(space.spaces):
            yield from leaves(inner, (*path, index))
    else:
        yield Leaf(path, space)


def layout(space: Space, environment: str) -> ObservationSpec:
    """The layout of a space's observations.

    Args:
        space: the space.
        environment: the environment's id, for errors.

    Raises:
        InvalidInputError: the space is of an unsupported kind, has no elements, is too large for
            the layout, or has parts of the same name.
    """
    found = list(leaves(space))
    _check(found, environment)
    if isinstance(space, Box):
        return _box_layout(space, environment)
    try:
        parts = tuple(_part(leaf) for leaf in found)
        return ObservationSpec(
            dtype=_common_dtype(parts),
            shape=(sum(part.size for part in parts),),
            parts=parts,
        )
    except ValidationError as error:
        raise _unfit(environment, error) from error


def encode(space: Space, spec: ObservationSpec, value: Any) -> npt.NDArray[Any]:
    """Encodes one observation of a space as a new array, `spec.shape`.

    Raises:
        ObservationError: the value is not in the space; the field is the part and the index.
    """
    return Encoder(space, spec).encode(value)


class Encoder:
    """Encodes observations of a space; walks the space only once."""

    def __init__(self, space: Space, spec: ObservationSpec) -> None:
        self.space, self.spec = space, spec
        places = spec.part_slices().values()
        bounds = (_bounds(part) for part in spec.parts or ())
        self._leaves = list(zip(leaves(space), spec.parts or (), places, bounds, strict=False))
        self._wide = {leaf.path for leaf in leaves(space) if _is_wide(leaf.space)}

    def encode(self, value: Any) -> npt.NDArray[Any]:
        """Encodes an observation; see the function `encode`."""
        spec = self.spec
        if spec.parts is None:
            array = _array(value, self.space.shape or (), WHOLE)
            if self._wide:
                _check_exact(array, WHOLE)
            return np.array(_cast(array, spec.dtype, WHOLE), copy=True).reshape(spec.shape)
        encoded = np.empty(spec.shape, dtype=spec.dtype)
        for leaf, part, place, bounds in self._leaves:
            array = _array(_follow(leaf, value), part.shape, leaf.name)
            if bounds is not None:
                _check_range(array, *bounds, leaf.name)
            if leaf.path in self._wide:
                _check_exact(array, leaf.name)
            encoded[place] = _cast(array, spec.dtype, leaf.name).reshape(-1)
        return encoded


Bounds = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def _bounds(part: ObservationPart) -> Bounds | None:
    """The smallest and the largest value of each element; None for unbounded numbers."""
    if part.categories is not None:
        low = np.array(part.first, np.float64).reshape(part.shape)
        return low, low + np.array(part.categories, np.float64).reshape(part.shape) - 1
    if not part.integer:
        return None
    low = np.full(part.shape, -np.inf if part.low is None else part.low)
    return low, np.full(part.shape, np.inf if part.high is None else part.high)


def _check_range(
    array: npt.NDArray[Any],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    field: str,
) -> None:
    """Refuses all but integers in the range, before a cast could round other values into it."""
    array = _integers(array, field)
    valid = (array >= low) & (array <= high)
    if not valid.all():
        index = np.unravel_index(int(np.argmin(valid)), array.shape) if array.shape else ()
        expected = f"an integer from {low[index]:.15g} to {high[index]:.15g}"
        place = "".join(f"[{i}]" for i in index)
        raise ObservationError(f"{field}{place}", expected, str(array[index]))


def _check_exact(array: npt.NDArray[Any], field: str) -> None:
    """Refuses integers that float32 would round."""
    wrong = np.asarray(_beyond_float(array))
    if wrong.any():
        expected = f"integers from {-FLOAT_INTEGERS} to {FLOAT_INTEGERS}, as float32 holds them"
        _refuse(array, wrong, expected, field)


def _check(found: list[Leaf], environment: str) -> None:
    if not found:
        raise InvalidInputError(
            "environment.id", f"an observation space of {SUPPORTED}", f"{environment}: no elements"
        )
    for leaf in found:
        if not isinstance(leaf.space, (Box, Discrete, MultiDiscrete, MultiBinary)):
            kind = type(leaf.space).__name__
            named = f" {leaf.name!r}, a" if leaf.path else ""
            hint = "; leave it out with the wrapper FilterObservation" if leaf.path else ""
            raise InvalidInputError(
                "environment.id",
                f"an observation space of {SUPPORTED}",
                f"{environment}:{named} {kind}",
                hint,
            )
        if 0 in (leaf.space.shape or ()):
            received = f"{environment}: {leaf.name!r} of shape {leaf.space.shape}"
            raise InvalidInputError(
                "environment.id", "an observation space with elements", received
            )
        if isinstance(leaf.space, Box):
            _check_integer_bounds(leaf, environment)
    names = [leaf.name for leaf in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidInputError(
            "environment.id", "parts with different names", f"{environment}: {twice[0]!r} twice"
        )


def _check_integer_bounds(leaf: Leaf, environment: str) -> None:
    """Refuses a Box of integers with finite bounds that float32 cannot represent exactly."""
    if not _is_wide(leaf.space):
        return
    limits = np.iinfo(leaf.space.dtype)
    # gymnasium bounds an unbounded Box of integers up to two steps within the dtype's range.
    for bounds, open_end in (
        (leaf.space.low, leaf.space.low <= limits.min + 2),  # type: ignore[attr-defined]
        (leaf.space.high, leaf.space.high >= limits.max - 2),  # type: ignore[attr-defined]
    ):
        wrong = _beyond_float(bounds) & ~open_end
        if wrong.any():
            expected = f"integers from {-FLOAT_INTEGERS} to {FLOAT_INTEGERS}, as float32 holds them"
            received = f"{environment}: {leaf.name!r} with the bound {bounds[wrong][0]}"
            raise InvalidInputError("environment.id", expected, received)


def _is_wide(space: Space) -> bool:
    """Whether a space is a Box of integers with bounds that float32 cannot represent exactly."""
    if not isinstance(space, Box) or not np.issubdtype(space.dtype, np.integer):
        return False
    return bool((_beyond_float(space.low) | _beyond_float(space.high)).any())


def _beyond_float(array: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Mask of numbers beyond the integers that float32 represents exactly; False for NaN."""
    beyond: npt.NDArray[np.bool_] = (array < -FLOAT_INTEGERS) | (array > FLOAT_INTEGERS)
    return beyond


def _box_layout(space: Box, environment: str) -> ObservationSpec:
    shape = space.shape or (1,)
    try:
        if space.dtype in (np.uint8, np.bool_):
            low, high = float(space.low.min()), float(space.high.max())
            return ObservationSpec(dtype="uint8", shape=shape, low=low, high=high)
        return ObservationSpec(dtype="float32", shape=shape)
    except (ValidationError, ValueError) as error:
        raise _unfit(environment, error) from error


def _part(leaf: Leaf) -> ObservationPart:
    space = leaf.space
    if isinstance(space, Discrete):
        first = int(space.start)
        start = (first,) if first else None
        return ObservationPart(name=leaf.name, shape=(), categories=(int(space.n),), start=start)
    shape = space.shape or ()
    if isinstance(space, MultiDiscrete):
        starts = tuple(int(first) for first in space.start.flat)
        return ObservationPart(
            name=leaf.name,
            shape=shape,
            categories=tuple(int(count) for count in space.nvec.flat),
            start=starts if any(starts) else None,
        )
    if isinstance(space, MultiBinary):
        return ObservationPart(name=leaf.name, shape=shape, integer=True, low=0.0, high=1.0)
    if isinstance(space, Box) and space.dtype in (np.uint8, np.bool_) and 0 not in shape:
        low, high = float(space.low.min()), float(space.high.max())
        return ObservationPart(name=leaf.name, shape=shape, integer=True, low=low, high=high)
    return ObservationPart(name=leaf.name, shape=shape)


def _common_dtype(parts: tuple[ObservationPart, ...]) -> Dtype:
    """The smallest dtype that holds every part."""
    if all(part.integer for part in parts):
        return "uint8"
    integral = all(part.integer or part.categories is not None for part in parts)
    return "int32" if integral else "float32"


def _unfit(environment: str, error: ValueError) -> InvalidInputError:
    problem = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        problem = f"{place}: {message}" if place else message
    expected = "an observation space within the limits of a layout"
    return InvalidInputError("environment.id", expected, f"{environment}: {problem}")


def _follow(leaf: Leaf, value: Any) -> Any:
    """The value of a leaf within a nested value."""
    for depth, key in enumerate(leaf.path):
        name = ".".join(map(str, leaf.path[: depth + 1]))
        if isinstance(key, int) and not isinstance(value, Mapping):
            if not isinstance(value, (tuple, list)):
                raise ObservationError(name, "a tuple", f"a {type(value).__name__}")
            if key >= len(value):
                raise ObservationError(name, f"at least {key + 1} elements", str(len(value)))
        elif not isinstance(value, Mapping):
            raise ObservationError(name, "a dictionary", f"a {type(value).__name__}")
        elif key not in value:
            listing = ", ".join(map(str, value)) or "none"
            raise ObservationError(name, "a value", f"none, but the keys {listing}")
        value = value[key]
    return value


def _array(value: Any, shape: tuple[int, ...], field: str) -> npt.NDArray[Any]:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ObservationError(field, "an array", f"a {type(value).__name__}: {error}") from None
    if array.dtype.kind not in "biuf":
        raise ObservationError(field, "numbers", f"a {type(value).__name__} ({array.dtype})")
    if array.shape != shape:
        raise ObservationError(field, f"shape {shape}", f"shape {array.shape}")
    return array


def _cast(array: npt.NDArray[Any], dtype: Dtype, field: str) -> npt.NDArray[Any]:
    """Casts an array to a dtype; refuses values that the dtype does not hold."""
    if array.dtype == dtype and dtype != "float32":
        return array
    if dtype == "float32":
        with np.errstate(over="ignore"):
            values: npt.NDArray[Any] = array.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            _refuse(array, ~np.isfinite(values), "a finite float32", field)
        return values
    low, high = INTEGER_RANGES[dtype]
    array = _integers(array, field)
    if array.dtype.kind != "b" and not ((array >= low) & (array <= high)).all():
        _refuse(array, (array < low) | (array > high), f"integers from {low} to {high}", field)
    return array.astype(dtype)


def _integers(array: npt.NDArray[Any], field: str) -> npt.NDArray[Any]:
    """The array, after a check that its values are integers, whatever its dtype."""
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = np.isfinite(array) & (array == np.floor(array))
        if not whole.all():
            _refuse(array, ~whole, "integers", field)
    return array


def _refuse(
    array: npt.NDArray[Any], wrong: npt.NDArray[np.bool_], expected: str, field: str
) -> None:
    index = np.unravel_index(int(np.argmax(wrong)), array.shape) if array.shape else ()
    place = "".join(f"[{i}]" for i in index)
    raise ObservationError(f"{field}{place}", expected, str(array[index]))


def is_float_box(space: Space) -> bool:
    """Whether observations are one array of floats."""
    return isinstance(space, Box) and np.issubdtype(space.dtype, np.floating)


def holds_zero(space: Space) -> bool:
    """Whether a frame of zeros belongs to a Box, so that stacks can be padded with it."""
    if not isinstance(space, Box):
        return False
    return bool((space.low <= 0).all() and (space.high >= 0).all())
