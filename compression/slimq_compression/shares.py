"""Limits in recipes: absolute numbers, or shares of the full network's or variant's size."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

_SHARE = re.compile(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,8})")


def _validate(value: Any) -> int | float | str:
    if isinstance(value, str):
        found = _SHARE.fullmatch(value)
        if found and int(found[1]) <= int(found[2]):
            return value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(value, float) and 0.0 < value <= 1.0:
            return value
        if value >= 1 and math.isfinite(value) and value == int(value):
            return int(value)
    expected = 'an integer of at least 1, or a share such as "1/8" or 0.125'
    raise ValueError(f"expected {expected}, received {value!r}")


Limit = Annotated[
    int | float | str,
    PlainValidator(_validate),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                {"type": "string", "pattern": "^[0-9]+/[0-9]+$"},
            ]
        }
    ),
]
"""An absolute number (an integer), or a share: text such as `"1/8"`, or a float up to 1.0."""


def is_share(limit: float | str) -> bool:
    """Whether a limit is relative."""
    return not isinstance(limit, int)


def resolve(limit: float | str, whole: int) -> int:
    """A limit in absolute numbers, rounded down, at least 1.

    Args:
        limit: a limit from a recipe.
        whole: the number to which shares refer.
    """
    if isinstance(limit, int):
        return limit
    return max(1, math.floor(Fraction(str(limit)) * whole))
