"""The steps of an atomic, durable write: temporary file, sync, rename, sync of the folder.

After Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014: without the first sync a
rename may reach the disk before the content, and without the second not at all. POSIX only.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from slimq.core._files import display, refuse_links
from slimq.core.errors import RepositoryError
from slimq.core.locks import hold_lock

TEMPORARY = ".tmp-"
"""How the names of unfinished files begin; no reader looks at them."""
LOCK = ".lock"
"""In a policy's folder."""
MAX_WAIT_SECONDS = 600.0
"""For another publisher, which holds the lock for as long as it writes."""


@contextlib.contextmanager
def publishing(root: Path, folder: tuple[str, ...]) -> Iterator[None]:
    """Makes a folder of a policy, and holds the policy's lock.

    Args:
        root: the repository's folder.
        folder: below the root, the policy first.

    Raises:
        RepositoryError: an operation on the disk failed, or another publisher held the lock for
            too long; no published file is lost.
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
        problem = f"cannot be published: {reason}; nothing published is lost"
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
