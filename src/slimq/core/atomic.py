"""The steps of an atomic, durable write: temporary file, sync, rename, sync of the folder.

After Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014: without the first sync a
rename may reach the disk before the content, and without the second not at all. POSIX only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import structlog

from slimq.core._walk import display, refuse_links
from slimq.core.errors import RepositoryError

TEMPORARY = ".tmp-"
"""How the names of unfinished files begin; no reader looks at them."""
LOCK = ".lock"
"""In a policy's folder; it stays there, empty, since removing a lock file is a race."""


@contextlib.contextmanager
def publishing(root: Path, folder: tuple[str, ...]) -> Iterator[None]:
    """Makes a folder of a policy, and holds the policy's lock.

    Args:
        root: the repository's folder.
        folder: below the root, the policy first.

    Raises:
        RepositoryError: an operation on the disk failed; no published file is lost.
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
                    stack.enter_context(_lock(path / LOCK))
            yield
    except OSError as error:
        problem = f"cannot be published: {error.strerror}; nothing published is lost"
        raise RepositoryError(display(folder), problem) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a whole file, or leaves what was there; returns once it is on the disk.

    Raises:
        OSError: the disk is full, for example; nothing is left behind.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o666)
    try:
        try:
            remaining = memoryview(content)
            while remaining:
                remaining = remaining[os.write(descriptor, remaining) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Brings the names in a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            structlog.get_logger(__name__).info("waiting for another publisher", lock=str(path))
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
