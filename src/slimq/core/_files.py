"""Reading files of the repository: regular files only, never through a link, verified by content.

Every path here is relative to the repository's root, as a tuple of names. A name is one that a
manifest or a slug allows, so it can neither hold a separator nor climb up.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

from slimq.core.errors import MissingExtraError, RepositoryError
from slimq.core.manifest import FileEntry

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
LARGEST_FILE = 2**31 - 1
"""Bytes; a protobuf message, and so an ONNX model, cannot be larger."""
CHUNK = 1 << 20
LARGEST_WINDOW = 1 << 27
"""Bytes of memory that decompression may take for its window."""


def display(parts: tuple[str, ...]) -> str:
    """A path as errors name it: from the repository's root, with forward slashes."""
    return "/".join(parts)


def refuse_links(root: Path, parts: tuple[str, ...]) -> int:
    """Checks each step of a path below the root; steps that do not exist (yet) are fine.

    Returns:
        The mode of the last step, for `stat.S_ISREG` and the like; 0 where it does not exist.

    Raises:
        RepositoryError: a name is none, or a step is a symbolic link or cannot be looked at.
    """
    path, mode = root, 0
    for index, name in enumerate(parts):
        place = display(parts[: index + 1])
        if not NAME.fullmatch(name):
            raise RepositoryError(place, "is not a plain file name")
        path /= name
        try:
            mode = path.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0
        except OSError as error:
            raise RepositoryError(place, f"cannot be read: {error.strerror}") from error
        if stat.S_ISLNK(mode):
            raise RepositoryError(place, "is a symbolic link; the repository holds none")
    return mode


def read_regular(root: Path, parts: tuple[str, ...], limit: int) -> bytes:
    """The content of a file of at most `limit` bytes.

    Raises:
        FileNotFoundError: there is none; the caller decides what that means.
        RepositoryError: it is a link or no regular file, is larger, or cannot be read.
    """
    refuse_links(root, parts)
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(root.joinpath(*parts), flags | getattr(os, "O_CLOEXEC", 0))
        try:  # `fdopen` refuses a folder without closing it, so the kind is checked before
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise RepositoryError(display(parts), "is not a regular file")
            if status.st_size > limit:
                problem = f"has {status.st_size} bytes, expected at most {limit}"
                raise RepositoryError(display(parts), problem)
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                return stream.read(limit + 1)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(display(parts)) from None
    except OSError as error:
        raise RepositoryError(display(parts), f"cannot be read: {error.strerror}") from error


def read_entry(root: Path, folder: tuple[str, ...], entry: FileEntry) -> bytes:
    """The stored bytes of a file that a manifest names, checked against the entry.

    Raises:
        FileNotFoundError: the file has gone.
        RepositoryError: its size or its sha256 differ, or it is a link.
    """
    parts = (*folder, entry.path)
    content = read_regular(root, parts, min(entry.bytes, LARGEST_FILE))
    check_entry(content, entry, display(parts))
    return content


def check_entry(content: bytes, entry: FileEntry, place: str) -> None:
    """Checks stored bytes against the entry that names them.

    Raises:
        RepositoryError: size or sha256 differ.
    """
    if len(content) != entry.bytes:
        raise RepositoryError(place, f"has {len(content)} bytes, its manifest says {entry.bytes}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry.sha256:
        raise RepositoryError(place, f"has sha256 {digest}, its manifest says {entry.sha256}")


def decode(content: bytes, entry: FileEntry, place: str) -> bytes:
    """What the stored bytes hold: themselves, or a zstd frame's content for a `.zst` file.

    The size that the manifest states is enforced while streaming, so that a small file cannot
    fill the memory: python-zstandard's own `max_output_size` binds only frames without a size.

    Raises:
        RepositoryError: not valid zstd, another size than stated, or a size missing or superfluous.
        MissingExtraError: zstandard is not installed.
    """
    if not entry.path.endswith(".zst"):
        if entry.uncompressed_bytes is not None:
            raise RepositoryError(place, "states uncompressed_bytes but is not a .zst file")
        return content
    expected = entry.uncompressed_bytes
    if expected is None:
        raise RepositoryError(place, "is compressed, but its manifest lacks uncompressed_bytes")
    if expected > LARGEST_FILE:
        raise RepositoryError(place, f"uncompressed_bytes: expected at most {LARGEST_FILE}")
    try:
        import zstandard
    except ImportError:
        raise MissingExtraError("zstandard", "serve") from None
    result = bytearray()
    decompressor = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
    try:
        with decompressor.stream_reader(content, read_across_frames=True) as reader:
            while chunk := reader.read(min(CHUNK, expected + 1 - len(result))):
                result += chunk
                if len(result) > expected:
                    problem = f"decompresses to more than the {expected} bytes of its manifest"
                    raise RepositoryError(place, problem)
    except zstandard.ZstdError as error:
        raise RepositoryError(place, f"is not valid zstd: {error}") from error
    if len(result) != expected:
        problem = f"decompresses to {len(result)} bytes, its manifest says {expected}"
        raise RepositoryError(place, problem)
    return bytes(result)
