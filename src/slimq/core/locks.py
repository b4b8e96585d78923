"""Interprocess file locks, which the kernel releases when their holder dies.

Lock files are left in place, empty: removing one would let two processes lock different files with
the same name. Symbolic links are not followed. POSIX only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import structlog
from filelock import Timeout, UnixFileLock

_log = structlog.get_logger(__name__)


def make_lock(path: Path, poll_seconds: float = 0.05) -> UnixFileLock:
    """Creates a lock without acquiring it.

    Args:
        path: the lock file, created if missing.
        poll_seconds: time between attempts to acquire the lock.
    """
    return UnixFileLock(
        path, poll_interval=poll_seconds, fallback_to_soft=False, preserve_lock_file=True
    )


@contextlib.contextmanager
def hold_lock(path: Path, seconds: float = 0.0) -> Iterator[None]:
    """Holds a lock.

    Args:
        path: the lock file.
        seconds: maximum time to wait for another process.

    Raises:
        TimeoutError: another process still holds the lock; the message names the file.
        OSError: the file cannot be opened.
    """
    lock = make_lock(path)
    try:
        _acquire(lock, path, seconds)
    except Timeout:
        waited = f" (waited {seconds:g} s)" if seconds else ""
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
