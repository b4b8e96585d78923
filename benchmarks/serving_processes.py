"""Runs servers as processes: starts, pauses, times and ends them (Linux)."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 15.0
TICK = os.sysconf("SC_CLK_TCK")


class ServerError(Exception):
    """A server did not start, or has ended."""


class Server:
    """A server process with its children.

    Attributes:
        name: name in messages.
        url: the URL on which it listens.
    """

    def __init__(self, name: str, command: Sequence[str], cores: set[int], log: Path) -> None:
        """Starts the server and waits for the URL that it prints.

        Args:
            name: name in messages.
            command: the command to run.
            cores: the cores to run on.
            log: file for its stderr.

        Raises:
            ServerError: it printed no URL.
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

    @property
    def pid(self) -> int:
        """Process ID of the server."""
        return self._process.pid

    def check(self) -> None:
        """Checks that the server is alive.

        Raises:
            ServerError: it has ended.
        """
        if self._process.poll() is not None:
            raise ServerError(f"{self.name} ended with {self._process.returncode}\n{self._tail()}")

    def pause(self) -> None:
        """Pauses the server and its children until they are resumed."""
        for pid in read_family(self._process.pid):
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Resumes the server and its children."""
        for pid in read_family(self._process.pid):
            _signal(pid, signal.SIGCONT)

    def processor_seconds(self) -> float:
        """Processor time of the server and its children so far, user and system, in seconds."""
        family = read_family(self._process.pid).values()
        return sum(process.ticks for process in family) / TICK

    def stop(self) -> None:
        """Ends the server and its children."""
        self.resume()
        family = read_family(self._process.pid)
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._process.kill()
            self._process.wait()
            living = read_processes()
            for pid, process in family.items():
                if pid in living and living[pid].started == process.started:
                    _signal(pid, signal.SIGKILL)
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


@contextlib.contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """Context whose new processes run on these cores, with their threads and children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Process:
    """A process according to /proc.

    Attributes:
        parent: process ID of its parent.
        ticks: processor time in ticks, user and system, including children that have ended.
        started: start time, in ticks since boot.
    """

    parent: int
    ticks: int
    started: int


def read_processes() -> dict[int, Process]:
    """All processes by process ID."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found[int(path.parent.name)] = parse_stat(path.read_text(encoding="utf-8"))
    return found


def read_family(pid: int) -> dict[int, Process]:
    """A process and its living descendants, in any session."""
    processes = read_processes()
    family: dict[int, Process] = {}
    wanted = [pid]
    while wanted:
        current = wanted.pop()
        if current in processes:
            family[current] = processes[current]
            wanted += [child for child, process in processes.items() if process.parent == current]
    return family


def parse_stat(line: str) -> Process:
    """Parses a line of /proc/PID/stat.

    The second field is the command's name in parentheses, which may itself contain parentheses and
    spaces (proc(5)).
    """
    fields = line.rpartition(")")[2].split()
    return Process(int(fields[1]), sum(map(int, fields[11:15])), int(fields[19]))


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
