from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from slimq.core.locks import hold_lock
from waiting import until

HOLDER = """
import sys
from pathlib import Path
from slimq.core.locks import hold_lock

with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def other_process(path: Path) -> subprocess.Popen[str]:
    """A process that holds a lock until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_who_does_not_wait_is_refused_with_the_files_name(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with other_process(path) as process:
        with pytest.raises(TimeoutError) as caught, hold_lock(path):
            pass
        assert str(caught.value) == f"{path} is locked by another process"
        with pytest.raises(TimeoutError) as caught, hold_lock(path, 0.2):
            pass
        assert str(caught.value) == f"{path} is locked by another process (waited 0.2 s)"
        process.communicate()
    with hold_lock(path):
        assert path.read_bytes() == b""


def test_who_waits_says_so_and_has_its_turn(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = threading.Event()

    def wait() -> None:
        with hold_lock(path, 30):
            held.set()

    thread = threading.Thread(target=wait)
    with other_process(path) as process, capture_logs() as logs:
        thread.start()
        until(lambda: logs, 10)
        assert (logs[0]["event"], logs[0]["lock"]) == ("waiting for another process", str(path))
        assert not held.is_set()
        process.communicate()
    thread.join(30)
    assert held.is_set()


def test_a_holder_that_is_killed_holds_nothing_any_more(tmp_path: Path) -> None:
    with other_process(tmp_path / "lock") as process:
        process.send_signal(signal.SIGKILL)
    with hold_lock(tmp_path / "lock"):
        pass
    assert (tmp_path / "lock").exists()


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic link"), hold_lock(tmp_path / "lock"):
        pass
    assert (tmp_path / "target").read_text() == "mine"
