"""Arrays of numbers in npz files, read with the limits of archives."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from slimq.core.errors import InvalidInputError, first_line
from slimq.importing.files.reading import open_archive, read_member
from slimq.importing.source import refuse


def read_arrays(content: bytes, name: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an npz file by key; pickled objects are refused.

    Args:
        content: of the file.
        name: of the file in errors.

    Raises:
        InvalidInputError: the file is damaged, unpacks to too much, or has other members.
    """
    archive = open_archive(content, name)
    found = {}
    for member in archive.namelist():
        data = read_member(archive, member, name)
        array = read_array(data, name, f"{member[:64]!r}")
        found[member.removesuffix(".npy")] = array
    return found


def read_array(content: bytes, name: str, member: str) -> npt.NDArray[Any]:
    """The array of an npy file, or of a member of an npz file.

    Raises:
        InvalidInputError: it is damaged, or holds objects.
    """
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(array, np.ndarray):
            return array
        problem = "an archive"
    except InvalidInputError:
        raise
    except Exception as error:  # an npy header is Python source: its reader raises anything
        problem = first_line(error)[:120]
    raise refuse(name, "arrays of numbers, as numpy.savez writes them", f"{member}: {problem}")
