"""What the system lets the process have: files for its connections, and memory with an end.

A model of a few bytes can ask for any amount of memory when it is loaded or run. Where there is no
limit, Linux grants more than there is, and ends the process once it is used. With a limit ONNX
Runtime is refused, and says so: the variant is broken, and all else goes on.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import structlog

RESERVED_FILES = 128
"""Open files beside connections: the repository's, sockets that listen, the event loop's own."""
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where the memory of a container is said, by the versions 2 and 1 of control groups."""


def allow_connections(wanted: int) -> int:
    """Raises the limit on open files as far as the system lets us; says how many may be connected.

    A process that has no file left to open accepts nobody, and cannot read its repository either.
    """
    try:
        import resource
    except ImportError:  # not on Windows, which has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited, needed = resource.RLIM_INFINITY, wanted + RESERVED_FILES
    if unlimited != soft < needed:
        soft = needed if hard == unlimited else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if unlimited != soft < needed:
        allowed = max(1, soft - RESERVED_FILES)
        structlog.get_logger(component="server").warning(
            "fewer connections than wanted", wanted=wanted, allowed=allowed, open_files=soft
        )
        return allowed
    return wanted


def bound_memory(limit: int | None) -> int | None:
    """Limits the memory that the process may write to (`RLIMIT_DATA`), for good.

    Args:
        limit: bytes in all; None for what the process has now and all that there is.

    Returns:
        The limit, or None where there is none: on other systems than Linux, or where the
        process has a lower one already.
    """
    if sys.platform != "linux":
        return None
    import resource

    wanted = _present_bytes() + existing_memory() if limit is None else limit
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if any(bound != resource.RLIM_INFINITY and bound <= wanted for bound in (soft, hard)):
        return None
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    return wanted


def existing_memory(files: Iterable[str] = CONTAINER_LIMITS) -> int:
    """Bytes of memory that the machine has, or the container if that has less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in files:
        with contextlib.suppress(OSError, ValueError):  # of another version; or without a limit
            found.append(int(Path(path).read_text(encoding="ascii")))
    return min(found)


def _present_bytes() -> int:
    """Memory that the process may write to now, most of it never touched: stacks of threads."""
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmData:")]
    return int(sizes[0]) * 1024 if sizes else 0
