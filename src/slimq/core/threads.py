"""The number of threads of a process and their waiting, by OpenMP's variables, which torch reads.

Processes that are started later inherit the variables.
"""

from __future__ import annotations

import os
import sys

from slimq.core.errors import InvalidInputError

VARIABLE = "OMP_NUM_THREADS"
WAIT_POLICY = "OMP_WAIT_POLICY"
MAX_THREADS = 256


def available_cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(count: int | None) -> None:
    """Limits the threads of this process and of those that it starts.

    Args:
        count: number of threads; 0 for one per core, None for no change.

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


def wait_passively() -> None:
    """Lets threads sleep while they wait for each other, unless the variable is already set.

    Otherwise, GNU OpenMP spins for 3 ms at every barrier, perhaps on the core that the awaited
    thread needs (libgomp manual, "OMP_WAIT_POLICY" and "GOMP_SPINCOUNT"). Has no effect on this
    process once torch is imported.
    """
    os.environ.setdefault(WAIT_POLICY, "passive")


def thread_limit() -> int:
    """The number of threads that the variable allows; 0 if it is not set."""
    first = os.environ.get(VARIABLE, "").split(",")[0].strip()
    return int(first) if first.isascii() and first.isdigit() else 0
