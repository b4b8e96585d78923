"""Puts load on a server with wrk, and reads wrk's output."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

SCRIPT = Path(__file__).with_name("serving_load.lua")
ERRORS = {
    "status": "answers with an error's status",
    "connect": "connections refused",
    "read": "connections that broke while reading",
    "write": "connections that broke while writing",
    "timeout": "requests without an answer in time",
}
TIMEOUT_SECONDS = 10


class LoadError(Exception):
    """An invalid measurement: wrk is missing or failed, or requests failed."""


@dataclass(frozen=True)
class Load:
    """Figures of wrk.

    Attributes:
        requests: number of answered requests.
        seconds: duration.
        p50: median latency, in seconds.
        p99: 99th percentile of latency, in seconds.
        processor: wrk's own processor time, in seconds.
    """

    requests: int
    seconds: float
    p50: float
    p99: float
    processor: float = 0.0


def find_wrk() -> str:
    """The path of wrk.

    Raises:
        LoadError: it is not installed.
    """
    found = shutil.which("wrk")
    if found is None:
        raise LoadError(
            "wrk is not installed. It makes the load: `apt-get install wrk` on Debian and Ubuntu, "
            "or build it from https://github.com/wg/wrk."
        )
    return found


def drive(url: str, body: Path, headers: dict[str, str], connections: int, seconds: int) -> Load:
    """Sends a body repeatedly; each connection sends one request after another.

    Args:
        url: the address.
        body: the file with the body.
        headers: headers besides Host and Content-Length.
        connections: number of connections.
        seconds: duration.

    Raises:
        LoadError: wrk or any request failed.
    """
    timing = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", f"{TIMEOUT_SECONDS}s"]
    sent = [f"{name}: {value}" for name, value in headers.items()]
    command = [find_wrk(), *timing, "-s", str(SCRIPT), url, "--", str(body), *sent]
    before = _children()
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + 3 * TIMEOUT_SECONDS, check=False
    )
    if ended.returncode != 0:
        raise LoadError(f"wrk ended with {ended.returncode}: {ended.stderr or ended.stdout}")
    try:
        return replace(parse(ended.stdout), processor=_children() - before)
    except LoadError as error:
        raise LoadError(f"{url}: {error}") from None


def _children() -> float:
    """Processor time of child processes that have ended, in seconds."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def parse(output: str) -> Load:
    """Parses the script's line in wrk's output.

    Raises:
        LoadError: there is no such line, nothing was answered, or any request failed.
    """
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise LoadError(f"wrk printed no figures: {output}")
    figures: dict[str, int] = json.loads(lines[-1])
    failed = [f"{figures[kind]} {words}" for kind, words in ERRORS.items() if figures[kind]]
    if failed:
        raise LoadError(f"of {figures['requests']} requests failed: {', '.join(failed)}")
    if not figures["requests"]:
        raise LoadError("no request was answered")
    return Load(
        figures["requests"],
        figures["microseconds"] / 1e6,
        figures["p50"] / 1e6,
        figures["p99"] / 1e6,
    )
