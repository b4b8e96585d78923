from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving_processes import Server, ServerError, on_cores, parse_stat, processor_seconds

SERVER = "print('test at http://127.0.0.1:1', flush=True); import time; time.sleep(60)"
BUSY = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
THREADS = f"""
import subprocess, sys, threading
subprocess.run([sys.executable, "-c", {BUSY!r}])
print(flush=True)
input()
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_name_with_brackets_and_blanks_does_not_shift_the_fields() -> None:
    line = "7 (a (b) c) S 3 7 7 0 -1 4194304 100 0 0 0 11 22 33 44 20 0 1 0 5"
    assert parse_stat(line) == (3, [11, 22, 33, 44])


def test_processor_time_counts_children_that_have_ended() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", THREADS], text=True, **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 0.28 <= processor_seconds(process.pid) < 3
        process.communicate("\n")


def test_a_server_is_started_on_its_cores_paused_and_ended(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    server = Server("test", [sys.executable, "-c", SERVER], {core}, tmp_path / "log")
    pid = server._process.pid
    try:
        assert server.url == "http://127.0.0.1:1"
        assert os.sched_getaffinity(pid) == {core}
        server.pause()
        deadline = time.monotonic() + 10
        while state(pid) != "T":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        server.resume()
        server.check()
    finally:
        server.stop()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(ServerError, match="test ended with -15"):
        server.check()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_server_that_does_not_start_shows_what_it_said(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no policies here')"]
    with pytest.raises(ServerError, match="test announced no URL\nno policies here"):
        Server("test", command, os.sched_getaffinity(0), tmp_path / "log")


def test_affinity_is_put_back() -> None:
    before = os.sched_getaffinity(0)
    with on_cores({max(before)}):
        assert os.sched_getaffinity(0) == {max(before)}
    assert os.sched_getaffinity(0) == before
