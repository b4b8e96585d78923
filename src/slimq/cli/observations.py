"""Reads observations from a file or stdin, for commands that query a service."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_SHOWN = 80
"""Characters of the source quoted in an error."""


def read_observations(source: str) -> npt.NDArray[Any] | dict[str, Any]:
    """Reads an array, or arrays by part, from npy, npz or JSON.

    JSON holds nested lists, or an object whose `observations` are such lists, or an object with
    lists by part. An npz file has one array per part, or only `observations`.

    Args:
        source: a file, JSON itself, or - for stdin.

    Raises:
        InvalidInputError: the source cannot be read, or has no such format.
    """
    from slimq.core.errors import InvalidInputError, first_line

    shown = source if len(source) <= MAX_SHOWN else f"{source[:MAX_SHOWN]}…"
    try:
        content = _read(source)
    except OSError as error:
        received = f"{shown} ({error.strerror})"
        raise InvalidInputError("--input", "a readable file", received) from error
    expected = "npy, npz, or JSON with observations"
    try:
        found = _parse(content)
    except Exception as error:  # an npy header is Python source: its reader raises anything
        received = f"{shown}: {first_line(error)}"
        raise InvalidInputError("--input", expected, received) from error
    if found is None:
        raise InvalidInputError("--input", expected, f"{shown}: an object without observations")
    return found


def _read(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read()
    if source.lstrip()[:1] in ("{", "["):
        return source.encode()
    return Path(source).read_bytes()


def _parse(content: bytes) -> npt.NDArray[Any] | dict[str, Any] | None:
    """The observations, None if there are none."""
    import numpy as np

    if content.startswith(b"\x93NUMPY"):
        array: npt.NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
        return array
    if content.startswith(b"PK"):
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays["observations"] if arrays.keys() == {"observations"} else arrays or None
    found = json.loads(content)
    if isinstance(found, dict):
        found = found.get("observations")
        return found if isinstance(found, dict) or found is None else np.asarray(found)
    return np.asarray(found)
