"""What Linux knows of processes, by their numbers."""

from __future__ import annotations

import subprocess
from pathlib import Path


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits for nothing but to be noticed."""
    return state_of(pid) in (None, "Z")


def state_of(pid: int) -> str | None:
    """`T` where a process is stopped, `Z` where nobody noticed its end, None where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def end(process: subprocess.Popen[str]) -> None:
    """Kills a process that was started here, unless it has ended, and closes its output."""
    if process.poll() is None:
        process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that are still there."""
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
