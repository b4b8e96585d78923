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
        folder: made when the first file is fetched.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, sha256: str) -> bytes | None:
        """The content of a file; None if it is not there. A damaged one is removed."""
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
        """Opens the beginning of a file, for this process alone, at its end.

        Raises:
            OSError: the folder cannot be written, or another process held the file for too long.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(self.folder / f"{sha256}.lock", MAX_WAIT_SECONDS):
            path = self.folder / f"{sha256}.part"
            with naming(path), path.open("ab") as stream:
                yield Part(path, stream, sha256)


class Part:
    """A file that is being fetched."""

    def __init__(self, path: Path, stream: BinaryIO, sha256: str) -> None:
        self._path, self._stream, self._sha256 = path, stream, sha256

    @property
    def size(self) -> int:
        """How many bytes of it are there."""
        return self._stream.tell()

    def write(self, content: bytes) -> None:
        """Adds what follows."""
        self._stream.write(content)

    def clear(self) -> None:
        """Starts over."""
        self._stream.truncate(0)
        self._stream.seek(0)

    def finish(self) -> bytes | None:
        """Gives the file its name; None if its bytes have another sha256, and then it is empty."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        content = self._path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self._sha256:
            self.clear()
            return None
        self._path.replace(self._path.with_suffix(".onnx"))
        sync_folder(self._path.parent)
        return content
