"""Parses durations and sizes from the command line, such as `0.2ms` and `20kB`."""

from __future__ import annotations

import math
import re

from slimq.core.errors import InvalidInputError

_MICROSECONDS = {"": 1.0, "us": 1.0, "µs": 1.0, "μs": 1.0, "ms": 1e3, "s": 1e6}
_BYTES = {
    "": 1,
    "b": 1,
    "kb": 1_000,
    "mb": 1_000_000,
    "gb": 1_000_000_000,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}
_QUANTITY = re.compile(r"\s*(\d[\d_,]*(?:\.\d*)?|\.\d+)\s*([a-zµμ]*)\s*", re.IGNORECASE)


def parse_duration(text: str, field: str = "duration") -> float:
    """Parses `0.2ms`, `150us` or `1s` to microseconds; a plain number is in microseconds.

    Args:
        text: the user's input.
        field: name of the option in errors.

    Raises:
        InvalidInputError: it is not a positive number with one of these units.
    """
    expected = "a positive duration such as 0.2ms, 150us or 1s"
    value, unit = _split(text, field, expected)
    if unit.lower() not in _MICROSECONDS:
        raise InvalidInputError(field, expected, repr(text))
    return value * _MICROSECONDS[unit.lower()]


def parse_bytes(text: str, field: str = "bytes") -> int:
    """Parses `20kB` (1 kB is 1,000 bytes), `1.5MB` or `16KiB`; a plain number is in bytes.

    Args:
        text: the user's input.
        field: name of the option in errors.

    Raises:
        InvalidInputError: it is not a positive number with one of these units.
    """
    expected = "a positive size such as 20kB (1 kB is 1,000 bytes), 16KiB or 20000"
    value, unit = _split(text, field, expected)
    if unit.lower() not in _BYTES:
        raise InvalidInputError(field, expected, repr(text))
    size = round(value * _BYTES[unit.lower()])
    if size < 1:
        raise InvalidInputError(field, expected, repr(text))
    return size


def _split(text: str, field: str, expected: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text)
    value = float(match[1].replace(",", "").replace("_", "")) if match else 0.0
    if match is None or value <= 0 or not math.isfinite(value):
        raise InvalidInputError(field, expected, repr(text))
    return value, match[2]
