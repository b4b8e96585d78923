"""Reads observations from a file or stdin, for commands that query a service."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt


def read_observations(source: str) -> npt.NDArray[Any]:
    """Reads an array from npy or JSON (a list, or an object with `observations`); - is stdin.

    Raises:
        InvalidInputError: the source cannot be read, or has neither format.
    """
    import numpy as np

    from slimq.core.errors import InvalidInputError, first_line

    try:
        content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        received = f"{source} ({error.strerror})"
        raise InvalidInputError("--input", "a readable file", received) from error
    expected = "npy, or JSON with observations"
    try:
        if content.startswith(b"\x93NUMPY"):
            array: npt.NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
            return array
        document = json.loads(content)
        if not isinstance(document, dict):
            return np.asarray(document)
        if "observations" in document:
            return np.asarray(document["observations"])
    except Exception as error:  # an npy header is Python source: its reader raises anything
        received = f"{source}: {first_line(error)}"
        raise InvalidInputError("--input", expected, received) from error
    raise InvalidInputError("--input", expected, f"{source}: an object without observations")
