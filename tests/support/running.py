"""The command as a process of its own, and services that run for the tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

COMMAND = [sys.executable, "-c", "from slimq.cli.main import main; main()"]
"""`slimq`, whatever is installed."""


@contextlib.contextmanager
def serve(
    policies: Path, seconds: float, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`slimq serve` on a free port, with these variables, for so long at most, and its URL."""
    command = [*COMMAND, "serve", "--policies", str(policies), "--port", "0"]
    with announced(command, seconds, **variables) as found:
        yield found


@contextlib.contextmanager
def announced(
    command: Sequence[str], seconds: float, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service that says ` at URL` in its first line, for so long at most, and that URL."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **variables},
        text=True,
    ) as process:
        stop = threading.Timer(seconds, process.kill)
        stop.start()
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split(" at ")[1].strip()
        finally:
            process.terminate()
            process.wait()
            stop.cancel()
