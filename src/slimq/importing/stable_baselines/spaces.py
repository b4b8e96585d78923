"""Layouts of observations from gym and gymnasium spaces that were pickled, read as data."""

from __future__ import annotations

from typing import Any

import numpy as np

from slimq.core.observation import ObservationPart, ObservationSpec
from slimq.importing.files.pickles import Global, Made, PickleError, dtype_name, to_array

MAX_START = 2**31 - 1
KINDS = ("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple")


def kind_of(space: Any) -> str:
    """The name of a space's class.

    Raises:
        PickleError: it is no space.
    """
    if isinstance(space, Made) and isinstance(space.maker, Global):
        module, name = space.maker
        if name in ("__newobj__", "_reconstructor") and space.arguments:  # protocol 0 and 1
            return str(space.arguments[0].name)
        if module.split(".")[0] in ("gym", "gymnasium") and name in KINDS:
            return name
        raise PickleError(f"expected a space of gymnasium, found {str(space.maker)[:120]}")
    raise PickleError("expected a space of gymnasium")


def fields_of(space: Any) -> dict[str, Any]:
    """A space's attributes; gym's older spaces pickle a tuple with them."""
    state = space.state
    if isinstance(state, tuple):
        state = next((one for one in state if isinstance(one, dict)), {})
    return state if isinstance(state, dict) else {}


def actions_of(space: Any) -> tuple[int, int]:
    """Number of actions of a pickled Discrete space, and the number of its first one.

    Raises:
        PickleError: it is something else.
    """
    if (kind := kind_of(space)) != "Discrete":
        raise PickleError(f"expected Discrete actions, found {kind}")
    fields = fields_of(space)
    count, start = int(to_array(fields["n"])), int(to_array(fields.get("start", 0)))
    if count < 1 or abs(start) > MAX_START:
        expected = f"expected 1 or more actions, counted from within ±{MAX_START}"
        raise PickleError(f"{expected}, found {count} from {start} on")
    return count, start


def layout_of(space: Any) -> ObservationSpec:
    """The layout of a pickled space's observations, as slimq describes environments.

    Raises:
        PickleError: the space is nested or unknown, or its fields are not as expected.
    """
    kind = kind_of(space)
    if kind == "Box":
        dtype = box_dtype(space)
        low, high = bounds_of(space)
        return ObservationSpec(dtype=dtype, shape=shape_of(space) or (1,), low=low, high=high)
    if kind == "Dict":
        parts = tuple(part_of(name, inner) for name, inner in inner_spaces(space).items())
    elif kind == "Tuple":
        raise PickleError("a Tuple, which Stable-Baselines3 has no network for")
    else:
        parts = (part_of("observation", space),)
    if all(part.categories is not None or part.integer for part in parts):
        bytes_only = all(
            part.categories is None and _within_bytes(part.low, part.high) for part in parts
        )
        dtype = "uint8" if bytes_only else "int32"
    else:
        dtype = "float32"
    return ObservationSpec(dtype=dtype, shape=(sum(part.size for part in parts),), parts=parts)


def inner_spaces(space: Any) -> dict[str, Any]:
    """The spaces of a pickled Dict by key, in its order.

    Raises:
        PickleError: it is something else.
    """
    spaces = fields_of(space).get("spaces")
    if isinstance(spaces, Made):  # an OrderedDict
        spaces = spaces.entries or dict(_pairs(spaces.arguments))
    if not isinstance(spaces, dict) or not spaces:
        raise PickleError("expected the spaces of a Dict")
    return {str(key): value for key, value in spaces.items()}


def part_of(name: str, space: Any) -> ObservationPart:
    """A leaf of a Dict, or a space of integers, as a part of a flat observation."""
    kind, fields = kind_of(space), fields_of(space)
    if kind == "Discrete":
        start = int(to_array(fields.get("start", 0)))
        return ObservationPart(
            name=name,
            shape=(1,) if name == "observation" else (),
            categories=(int(to_array(fields["n"])),),
            start=(start,) if start else None,
        )
    if kind == "MultiDiscrete":
        counts = to_array(fields["nvec"])
        starts = to_array(fields["start"]).ravel() if "start" in fields else np.zeros(counts.size)
        return ObservationPart(
            name=name,
            shape=counts.shape,
            categories=tuple(map(int, counts.ravel())),
            start=tuple(map(int, starts)) if starts.any() else None,
        )
    if kind == "MultiBinary":
        shape = shape_of(space) or (int(to_array(fields["n"])),)
        return ObservationPart(name=name, shape=shape, integer=True, low=0.0, high=1.0)
    if kind == "Box":
        low, high = bounds_of(space)
        name_of_dtype = dtype_of(space)
        integer = name_of_dtype in ("bool", "uint8")
        return ObservationPart(
            name=name, shape=shape_of(space), integer=integer, low=low, high=high
        )
    raise PickleError(f"{name!r} is a {kind} within a Dict")


def box_dtype(space: Any) -> Any:
    """The dtype with which slimq sends observations of a Box."""
    return "uint8" if dtype_of(space) in ("uint8", "bool") else "float32"


def dtype_of(space: Any) -> str:
    """The name of a space's own dtype."""
    found = fields_of(space).get("dtype")
    return found if isinstance(found, str) else dtype_name(found)


def shape_of(space: Any) -> tuple[int, ...]:
    """The shape of a space's observations."""
    fields = fields_of(space)
    shape = fields.get("_shape", fields.get("shape"))
    if not isinstance(shape, tuple | list):
        return ()
    return tuple(int(to_array(size)) for size in shape)


def bounds_of(space: Any) -> tuple[float | None, float | None]:
    """The smallest and the largest value of a Box; None where it is unbounded."""
    fields = fields_of(space)
    low, high = to_array(fields["low"]).min(), to_array(fields["high"]).max()
    if dtype_of(space) == "bool":
        return 0.0, 1.0
    return (
        float(low) if np.isfinite(low) and abs(low) < 1e30 else None,
        float(high) if np.isfinite(high) and abs(high) < 1e30 else None,
    )


def is_image(space: Any) -> bool:
    """Whether Stable-Baselines3 takes a space for an image: uint8, three axes, from 0 to 255."""
    if kind_of(space) != "Box" or dtype_of(space) != "uint8" or len(shape_of(space)) != 3:
        return False
    fields = fields_of(space)
    return bool((to_array(fields["low"]) == 0).all() and (to_array(fields["high"]) == 255).all())


def _within_bytes(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and low >= 0 and high <= 255


def _pairs(arguments: Any) -> list[tuple[str, Any]]:
    """The entries of an OrderedDict that was pickled as a list of pairs."""
    if isinstance(arguments, tuple) and arguments and isinstance(arguments[0], list):
        return [(pair[0], pair[1]) for pair in arguments[0] if isinstance(pair[0], str)]
    return []
