"""Servers as real processes: started, paused while others are measured, timed, ended (Linux)."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 15.0
TICK = os.sysconf("SC_CLK_TCK")


class ServerError(Exception):
    """A server that did not start, or that has ended."""


class Server:
    """A process that serves, with its children.

    Attributes:
        name: how messages name it.
        url: where it listens.
    """

    def __init__(self, name: str, command: Sequence[str], cores: set[int], log: Path) -> None:
        """Starts it and waits for the URL that it prints.

        Args:
            name: how messages name it.
            command: what to run.
            cores: on which.
            log: where its stderr goes.

        Raises:
            ServerError: it announced no URL.
        """
        self.name, self._log = name, log
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SLIMQ_")}
        with log.open("wb") as errors, on_cores(cores):
            self._process = subprocess.Popen(
                list(command),
                stdout=subprocess.PIPE,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                text=True,
                env=environment,
                start_new_session=True,
            )
        try:
            self.url = self._read_url()
        except BaseException:
            self.stop()
            raise

    def check(self) -> None:
        """Holds it to being alive.

        Raises:
            ServerError: it has ended.
        """
        if self._process.poll() is not None:
            raise ServerError(f"{self.name} ended with {self._process.returncode}\n{self._tail()}")

    def pause(self) -> None:
        """Has it take no processor time until it is resumed."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        self._signal(signal.SIGCONT)

    def processor_seconds(self) -> float:
        """Processor time of it and its children so far: every thread, user and system."""
        return processor_seconds(self._process.pid)

    def stop(self) -> None:
        """Ends it and its children."""
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._signal(signal.SIGKILL)
            self._process.wait()
            if self._process.stdout:
                self._process.stdout.close()

    def _read_url(self) -> str:
        limit = threading.Timer(START_SECONDS, self._process.kill)
        limit.daemon = True
        limit.start()
        line = self._process.stdout.readline() if self._process.stdout else ""
        limit.cancel()
        found = re.search(r"http://\S+", line)
        if found is None:
            raise ServerError(f"{self.name} announced no URL\n{self._tail()}")
        return found[0]

    def _tail(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-2000:]

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


@contextlib.contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """What is started inside runs on these cores, and so do its threads and children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def processor_seconds(pid: int) -> float:
    """Processor time of a process, of the children that it has waited for, and of living ones."""
    found: dict[int, tuple[int, list[int]]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found[int(path.parent.name)] = parse_stat(path.read_text(encoding="utf-8"))
    total = 0
    wanted = [pid]
    while wanted:
        current = wanted.pop()
        total += sum(found[current][1]) if current in found else 0
        wanted += [child for child, (parent, _) in found.items() if parent == current]
    return total / TICK


def parse_stat(line: str) -> tuple[int, list[int]]:
    """The parent of a process, and its ticks: user, system, and both of its children that ended.

    The second field is the command's name in brackets, which may itself hold brackets and spaces
    (proc(5)).
    """
    fields = line.rpartition(")")[2].split()
    return int(fields[1]), [int(ticks) for ticks in fields[11:15]]
