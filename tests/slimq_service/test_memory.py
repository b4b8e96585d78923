"""Memory comes back: hundreds of loads and unloads, and a leak on purpose that must be found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from places import ROOT

SCRIPT = Path(__file__).parent / "scripts" / "load_unload.py"
CYCLES = 500
LIMIT_BYTES = 20_000_000


def growth(leak: int) -> int:
    arguments = [str(ROOT / "policies"), "pong", "fp32", str(CYCLES), str(leak)]
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout)


@pytest.mark.slow
def test_five_hundred_loads_and_unloads_leave_nothing_behind() -> None:
    assert growth(leak=0) < LIMIT_BYTES


@pytest.mark.slow
def test_a_leak_of_a_hundred_kilobytes_a_cycle_is_found() -> None:
    assert growth(leak=100_000) > LIMIT_BYTES
