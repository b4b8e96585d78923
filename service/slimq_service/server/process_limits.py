"""Limits of the process: open files for connections, and memory.

A tiny model can request any amount of memory when it is loaded or run. Without a limit, Linux
overcommits, and kills the process once the memory is used. With a limit, the allocation in ONNX
Runtime fails instead: the variant is broken, and everything else continues.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import structlog

RESERVED_FILES = 128
"""Files besides connections: the repository's, listening sockets, the event loop's."""
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files with a container's memory limit, of cgroups v2 and v1."""


def raise_file_limit(wanted: int) -> int:
    """Raises the limit on open files if possible; returns the number of connections it permits.

    A process that is out of descriptors accepts no connections, nor can it read its repository.
    """
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited, needed = resource.RLIM_INFINITY, wanted + RESERVED_FILES
    if unlimited != soft < needed:
        soft = needed if hard == unlimited else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if unlimited != soft < needed:
        allowed = max(1, soft - RESERVED_FILES)
        structlog.get_logger(component="server").warning(
            "open-file limit allows fewer connections",
            wanted=wanted,
            allowed=allowed,
            open_files=soft,
        )
        return allowed
    return wanted


def limit_memory(limit: int | None) -> int | None:
    """Limits the process's writable memory (`RLIMIT_DATA`) permanently.

    Args:
        limit: in bytes; None for the current size plus all memory of the machine or container.

    Returns:
        The limit, or None if it was not set: on systems other than Linux, or if the process
        already has a lower one.
    """
    if sys.platform != "linux":
        return None
    import resource

    wanted = _writable_bytes() + available_memory() if limit is None else limit
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if any(bound != resource.RLIM_INFINITY and bound <= wanted for bound in (soft, hard)):
        return None
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    return wanted


def available_memory(files: Iterable[str] = CONTAINER_LIMITS) -> int:
    """The memory of the machine, or the container's limit if that is lower, in bytes."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in files:
        with contextlib.suppress(OSError, ValueError):  # the other version of cgroups, or no limit
            found.append(int(Path(path).read_text(encoding="ascii")))
    return min(found)


def _writable_bytes() -> int:
    """The process's writable memory; most of it is untouched stacks of threads."""
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmData:")]
    return int(sizes[0]) * 1024 if sizes else 0
