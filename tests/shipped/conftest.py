"""The service over the shipped policies, as a real process."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

POLICIES = Path(__file__).parents[2] / "policies"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [sys.executable, "-m", "slimq.cli.main", "serve", "--policies", str(POLICIES)]
    with subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        yield found.group().rstrip("/")
        process.terminate()
        assert process.wait(30) == 0
