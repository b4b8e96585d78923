"""Locks between processes, on files: of the kernel, which takes one back when its holder dies.

A lock file stays where it is, empty: removing one would let two processes lock different files of
the same name. It is never followed through a symbolic link. POSIX only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import structlog
from filelock import Timeout, UnixFileLock

_log = structlog.get_logger(__name__)


def make_lock(path: Path, poll_seconds: float = 0.05) -> UnixFileLock:
    """A lock that is not held yet.

    Args:
        path: of its file, which is created where it is missing.
        poll_seconds: between two attempts to get it.
    """
    return UnixFileLock(
        path, poll_interval=poll_seconds, fallback_to_soft=False, preserve_lock_file=True
    )


@contextlib.contextmanager
def hold_lock(path: Path, seconds: float = 0.0) -> Iterator[None]:
    """Holds a lock.

    Args:
        path: of its file.
        seconds: to wait for another process at most.

    Raises:
        TimeoutError: another process still holds it; the message names the file.
        OSError: the file cannot be opened.
    """
    lock = make_lock(path)
    try:
        _acquire(lock, path, seconds)
    except Timeout:
        waited = f" for {seconds:g} s" if seconds else ""
        raise TimeoutError(f"{path} is locked by another process{waited}") from None
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: UnixFileLock, path: Path, seconds: float) -> None:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not seconds:
            raise
        _log.info("waiting for another process", lock=str(path))
        lock.acquire(timeout=seconds)
