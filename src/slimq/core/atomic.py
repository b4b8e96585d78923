"""Atomic, durable writes: write a temporary file, sync it, rename it, sync the folder.

After Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014: without the first sync the
rename may reach the disk before the content; without the second it may never get there. POSIX only.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from slimq.core._walk import display, refuse_links
from slimq.core.errors import RepositoryError
from slimq.core.locks import hold_lock

TEMPORARY = ".tmp-"
"""Prefix of unfinished files; readers ignore them."""
LOCK = ".lock"
"""Lock file in a policy's folder. It is never removed, because deleting a lock file is racy."""
MAX_WAIT_SECONDS = 600.0
"""Maximum wait for another publisher, which holds the lock while it writes."""


@contextlib.contextmanager
def publishing(root: Path, folder: tuple[str, ...]) -> Iterator[None]:
    """Creates a folder of a policy and holds the policy's lock.

    Args:
        root: the repository's folder.
        folder: path below the root, starting with the policy.

    Raises:
        RepositoryError: a disk operation failed, or another publisher held the lock for too long;
            nothing that was published is lost.
    """
    refuse_links(root, folder)
    try:
        with contextlib.ExitStack() as stack:
            root.mkdir(parents=True, exist_ok=True)
            for depth in range(len(folder)):
                path = root.joinpath(*folder[: depth + 1])
                path.mkdir(exist_ok=True)
                sync_folder(path.parent)
                if depth == 0:
                    stack.enter_context(hold_lock(path / LOCK, MAX_WAIT_SECONDS))
            yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.filename is not None:
            reason = f"{Path(os.fsdecode(error.filename)).name}: {reason}"
        problem = f"cannot be published: {reason}; nothing that was published is lost"
        raise RepositoryError(display(folder), problem) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Writes the whole file or leaves the old one in place; returns once the data is on disk.

    Raises:
        OSError: the write failed, for example because the disk is full; it names `path`, and no
            partial file remains.
    """
    with naming(path):
        _write_and_rename(path, content)


def append_whole(path: Path, content: bytes) -> None:
    """Appends to a file, creating it if missing; other processes must not write to it meanwhile.

    Raises:
        OSError: the write failed; it names `path`, and the file is unchanged.
    """
    with naming(path):
        is_new = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        before = os.fstat(descriptor).st_size
        try:
            _write_all(descriptor, content)
        except BaseException:
            os.ftruncate(descriptor, before)
            if is_new:
                path.unlink()
            raise
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds a file's name to system errors in this context, since those of open files have none.

    Raises:
        OSError: the same error, with `path` as its `filename`.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_and_rename(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o666)
    try:
        try:
            _write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def _write_all(descriptor: int, content: bytes) -> None:
    remaining = memoryview(content)
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]


def sync_tree(folder: Path) -> None:
    """Syncs all files and folders below a folder, and itself, to disk."""
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def sync_folder(path: Path) -> None:
    """Syncs a folder's entries to disk."""
    _sync(path, os.O_DIRECTORY)


def _sync(path: Path, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
