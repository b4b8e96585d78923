"""Reads files of the repository: regular files only, never outside it, verified by content.

Every path here is relative to the repository's root, as a tuple of names. Names are limited to
those that manifests and slugs allow, so they cannot contain a separator or climb up; symbolic links
may lead to another place below the root (see `_walk`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from slimq.core._walk import FOLDER_FLAGS, NAME, act_below, display
from slimq.core.errors import MissingExtraError, RepositoryError
from slimq.core.manifest import FileEntry
from slimq.core.stamp import FileStamp

MAX_FILE_BYTES = 2**31 - 1
"""Largest size of a protobuf message, and so of an ONNX model."""
CHUNK = 1 << 20
MAX_WINDOW_BYTES = 1 << 27
"""Maximum memory of the decompression window, in bytes."""
MAX_LISTINGS = 5
"""Maximum attempts to list a folder that is replaced each time."""
READ_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


def status_of(root: Path, parts: tuple[str, ...]) -> os.stat_result | None:
    """The status of a file or folder; None if it does not exist.

    Raises:
        RepositoryError: a part is not a plain name, a link leaves the root, or it cannot be read.
    """
    try:
        return act_below(root, parts, _status)
    except FileNotFoundError:
        return None


def statuses_in(
    root: Path, folder: tuple[str, ...], paths: Sequence[tuple[str, ...]]
) -> list[os.stat_result | RepositoryError | None]:
    """The statuses of files in a folder, as from `status_of`; opens the folder only once.

    Args:
        root: the repository's folder.
        folder: path of the folder below the root.
        paths: paths of the files below that folder.
    """

    def examine(name: str, parent: int | None) -> list[os.stat_result | None]:
        opened = os.open(name, FOLDER_FLAGS, dir_fd=parent)
        try:
            return [_plain_status(opened, path) for path in paths]
        finally:
            os.close(opened)

    found: list[os.stat_result | None] = [None] * len(paths)
    if os.open in os.supports_dir_fd:
        with contextlib.suppress(FileNotFoundError, RepositoryError):
            found = act_below(root, folder, examine)
    results: list[os.stat_result | RepositoryError | None] = []
    for path, status in zip(paths, found, strict=True):
        try:
            results.append(status or status_of(root, (*folder, *path)))
        except RepositoryError as error:
            results.append(error)
    return results


def stamps_in(
    root: Path, folder: tuple[str, ...], paths: Sequence[tuple[str, ...]]
) -> list[FileStamp | None]:
    """The stamps of files in a folder; None for each that is missing or cannot be read."""
    found = statuses_in(root, folder, paths)
    return [FileStamp.of(one) if isinstance(one, os.stat_result) else None for one in found]


def list_folder(root: Path, parts: tuple[str, ...]) -> list[str]:
    """The names in a folder.

    If a switched link replaced the folder meanwhile, it is listed again, since the old folder may
    have been emptied.

    Raises:
        FileNotFoundError: there is no such folder.
        RepositoryError: a part is not a plain name, a link leaves the root, or it cannot be read.
    """
    names: list[str] = []
    for _ in range(MAX_LISTINGS):
        before = status_of(root, parts)
        names = act_below(root, parts, _list)
        after = status_of(root, parts)
        if before is not None and after is not None and os.path.samestat(before, after):
            break
    return names


def read_regular(root: Path, parts: tuple[str, ...], limit: int) -> bytes:
    """The content of a file of at most `limit` bytes.

    Raises:
        FileNotFoundError: there is no such file; the caller decides what that means.
        RepositoryError: it is not a regular file, is larger, cannot be read, or a link to it leaves
            the root.
    """

    def read(name: str, folder: int | None) -> bytes:
        descriptor = os.open(name, READ_FLAGS, dir_fd=folder)
        try:  # `fdopen` refuses a folder without closing it, so check the kind first
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

    return act_below(root, parts, read)


def read_entry(root: Path, folder: tuple[str, ...], entry: FileEntry) -> bytes:
    """Reads the stored bytes of a file named by a manifest, and checks them against the entry.

    Raises:
        FileNotFoundError: the file no longer exists.
        RepositoryError: its size or sha256 differs, or it cannot be read.
    """
    parts = (*folder, entry.path)
    content = read_regular(root, parts, min(entry.bytes, MAX_FILE_BYTES))
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
    """Returns the stored bytes, decompressed for a `.zst` file.

    The size stated in the manifest is enforced while streaming, so that a small file cannot fill
    the memory: python-zstandard's own `max_output_size` only applies to frames without a size.

    Raises:
        RepositoryError: the zstd data is invalid, its size differs from the stated one, or the
            stated size is missing or superfluous.
        MissingExtraError: zstandard is not installed.
    """
    if not entry.path.endswith(".zst"):
        if entry.uncompressed_bytes is not None:
            raise RepositoryError(place, "states uncompressed_bytes but is not a .zst file")
        return content
    expected = entry.uncompressed_bytes
    if expected is None:
        raise RepositoryError(place, "is compressed, but its manifest lacks uncompressed_bytes")
    if expected > MAX_FILE_BYTES:
        raise RepositoryError(place, f"uncompressed_bytes: expected at most {MAX_FILE_BYTES}")
    try:
        import zstandard
    except ImportError:
        raise MissingExtraError("zstandard", "serve") from None
    result = bytearray()
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
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


def _plain_status(folder: int, path: tuple[str, ...]) -> os.stat_result | None:
    """The status of a file below an open folder; None if a link or an error is in the way.

    A folder that becomes a link between two steps goes unnoticed, which is harmless for a status.
    """
    if not all(map(NAME.fullmatch, path)):
        return None
    try:
        for depth in range(len(path)):
            name = "/".join(path[: depth + 1])
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                return None
    except OSError:
        return None
    return status


def _status(name: str, folder: int | None) -> os.stat_result:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return status


def _list(name: str, folder: int | None) -> list[str]:
    if folder is None:
        return [entry.name for entry in Path(name).iterdir()]
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=folder)
    try:
        return os.listdir(descriptor)  # noqa: PTH208 - a path could mean another folder by now
    finally:
        os.close(descriptor)
