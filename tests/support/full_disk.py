"""A small file system of its own for a test, and how it is filled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mounts import mounted

FILLER = "filler"


@contextlib.contextmanager
def small_disk(at: Path, size: str) -> Iterator[Path]:
    """Mounts a file system of `size`, such as 64k, at a new folder."""
    at.mkdir()
    with mounted("-t", "tmpfs", "-o", f"size={size}", "none", at=at) as place:
        yield place


def fill(disk: Path) -> Path:
    """Takes all space that is left; returns the file to remove."""
    path = disk / FILLER
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder, and the folders, by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
        if path.name != FILLER
    }
