from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from processes import children_of, has_ended, state_of
from serving_processes import Process, Server, ServerError, on_cores, parse_stat
from waiting import until

SERVER = "print('test at http://127.0.0.1:1', flush=True); import time; time.sleep(60)"
BUSY = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
FAMILY = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {BUSY!r}])
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
child = subprocess.Popen(sleep, start_new_session=True)
print("test at http://127.0.0.1:1 with", child.pid, flush=True)
child.wait()
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_name_with_brackets_and_blanks_does_not_shift_the_fields() -> None:
    line = "7 (a (b) c) S 3 7 7 0 -1 4194304 100 0 0 0 11 22 33 44 20 0 1 0 55 66"
    assert parse_stat(line) == Process(parent=3, ticks=110, started=55)


def test_children_in_sessions_of_their_own_are_timed_paused_and_ended_too(tmp_path: Path) -> None:
    server = Server(
        "test", [sys.executable, "-c", FAMILY], os.sched_getaffinity(0), tmp_path / "log"
    )
    try:
        (child,) = children_of(server.pid)
        assert 0.28 <= server.processor_seconds() < 5
        server.pause()
        until(lambda: state_of(child) == "T", 10, every=0.01)
    finally:
        server.stop()
    until(lambda: has_ended(child), 10, every=0.01)


def test_a_server_is_started_on_its_cores_paused_and_ended(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    server = Server("test", [sys.executable, "-c", SERVER], {core}, tmp_path / "log")
    pid = server.pid
    try:
        assert server.url == "http://127.0.0.1:1"
        assert os.sched_getaffinity(pid) == {core}
        server.pause()
        until(lambda: state_of(pid) == "T", 10, every=0.01)
        server.resume()
        server.check()
    finally:
        server.stop()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(ServerError, match="test ended with -15"):
        server.check()


def test_a_server_that_does_not_start_shows_what_it_said(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no policies here')"]
    with pytest.raises(ServerError, match="test announced no URL\nno policies here"):
        Server("test", command, os.sched_getaffinity(0), tmp_path / "log")


def test_affinity_is_put_back() -> None:
    before = os.sched_getaffinity(0)
    with on_cores({max(before)}):
        assert os.sched_getaffinity(0) == {max(before)}
    assert os.sched_getaffinity(0) == before
