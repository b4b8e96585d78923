"""How many threads a process may use, as OpenMP's variable says; torch and numpy read it, too.

Processes that are started later inherit it.
"""

from __future__ import annotations

import os
import sys

from slimq.core.errors import InvalidInputError

VARIABLE = "OMP_NUM_THREADS"
MAX_THREADS = 256


def available_cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(count: int | None) -> None:
    """Limits the threads of this process and of those that it starts.

    Args:
        count: number of threads; 0 for one per core, None to leave everything as it is.

    Raises:
        InvalidInputError: it is out of range.
    """
    if count is None:
        return
    if not 0 <= count <= MAX_THREADS:
        raise InvalidInputError("--threads", f"0 to {MAX_THREADS}", str(count))
    threads = count or available_cores()
    os.environ[VARIABLE] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:  # it has read the variable already
        torch.set_num_threads(threads)


def thread_limit() -> int:
    """The number of threads that the variable allows; 0 if it says nothing."""
    first = os.environ.get(VARIABLE, "").split(",")[0].strip()
    return int(first) if first.isascii() and first.isdigit() else 0
