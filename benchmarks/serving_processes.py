"""Servers as real processes: started, paused while others are measured, timed, ended (Linux)."""

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

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        return self._process.pid

    def check(self) -> None:
        """Holds it to being alive.

        Raises:
            ServerError: it has ended.
        """
        if self._process.poll() is not None:
            raise ServerError(f"{self.name} ended with {self._process.returncode}\n{self._tail()}")

    def pause(self) -> None:
        """Has it take no processor time until it is resumed."""
        for pid in read_family(self._process.pid):
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        for pid in read_family(self._process.pid):
            _signal(pid, signal.SIGCONT)

    def processor_seconds(self) -> float:
        """Processor time of it and its children so far: every thread, user and system."""
        family = read_family(self._process.pid).values()
        return sum(process.ticks for process in family) / TICK

    def stop(self) -> None:
        """Ends it and its children."""
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
    """What is started inside runs on these cores, and so do its threads and children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Process:
    """What /proc says of a process.

    Attributes:
        parent: its number.
        ticks: of processor time, user and system, also of its children that have ended.
        started: when, in ticks since the machine did.
    """

    parent: int
    ticks: int
    started: int


def read_processes() -> dict[int, Process]:
    """Every process by its number."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found[int(path.parent.name)] = parse_stat(path.read_text(encoding="utf-8"))
    return found


def read_family(pid: int) -> dict[int, Process]:
    """A process and those below it that live, whatever their sessions."""
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
    """A line of /proc/PID/stat.

    The second field is the command's name in brackets, which may itself hold brackets and spaces
    (proc(5)).
    """
    fields = line.rpartition(")")[2].split()
    return Process(int(fields[1]), sum(map(int, fields[11:15])), int(fields[19]))


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
