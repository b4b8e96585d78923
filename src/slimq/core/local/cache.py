"""Model files on this machine, each named by its sha256; only complete files have that name.

    ~/.cache/slimq/models/<sha256>.onnx    complete, checked again whenever it is read
    ~/.cache/slimq/models/<sha256>.part    the beginning of one whose download was interrupted
    ~/.cache/slimq/models/<sha256>.lock    held while it is fetched

The folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from slimq.core.atomic import naming, sync_folder
from slimq.core.locks import hold_lock
from slimq.core.user_cache import user_cache_folder

MAX_WAIT_SECONDS = 600.0
"""Maximum wait for another process that fetches the same file."""


def models_folder() -> Path:
    """The folder for this user's model files."""
    return user_cache_folder() / "models"


class ModelCache:
    """Model files by sha256.

    Attributes:
        folder: the cache folder, created when the first file is fetched.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, sha256: str) -> bytes | None:
        """The content of a file; None if it is not cached. A damaged file is removed."""
        path = self.folder / f"{sha256}.onnx"
        try:
            with naming(path):
                content = path.read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(content).hexdigest() == sha256:
            return content
        path.unlink(missing_ok=True)
        return None

    @contextlib.contextmanager
    def part(self, sha256: str) -> Iterator[Part]:
        """Opens a partial download for appending, exclusively for this process.

        Raises:
            OSError: the folder cannot be written, or another process held the file for too long.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(self.folder / f"{sha256}.lock", MAX_WAIT_SECONDS):
            path = self.folder / f"{sha256}.part"
            with naming(path), path.open("ab") as stream:
                yield Part(path, stream, sha256)


class Part:
    """A partial download."""

    def __init__(self, path: Path, stream: BinaryIO, sha256: str) -> None:
        self._path, self._stream, self._sha256 = path, stream, sha256

    @property
    def size(self) -> int:
        """Number of bytes received so far."""
        return self._stream.tell()

    def write(self, content: bytes) -> None:
        """Appends received bytes."""
        self._stream.write(content)

    def clear(self) -> None:
        """Discards all bytes, to start over."""
        self._stream.truncate(0)
        self._stream.seek(0)

    def finish(self) -> bytes | None:
        """Completes the file; if its sha256 differs, clears it and returns None."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        content = self._path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self._sha256:
            self.clear()
            return None
        self._path.replace(self._path.with_suffix(".onnx"))
        sync_folder(self._path.parent)
        return content
