"""File systems that are mounted for a test, which is skipped where mounting is refused."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(*arguments: str, at: Path) -> Iterator[Path]:
    """`mount ARGUMENTS AT`, until the end or until it is unmounted meanwhile."""
    mount(*arguments, at=at)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], capture_output=True, check=False)


def mount(*arguments: str, at: Path) -> None:
    """`mount ARGUMENTS AT`."""
    command = ["mount", *arguments, str(at)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"mounting is refused: {done.stderr.strip()}")


def unmount(at: Path) -> None:
    """`umount -l`: at once, though files of it are open."""
    subprocess.run(["umount", "-l", str(at)], capture_output=True, check=True)
