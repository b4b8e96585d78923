"""A real service for the commands that talk to one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-c", "from slimq.cli.main import main; main()"]


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `slimq serve` on a small repository."""
    spec = importlib.util.spec_from_file_location(
        "shared_builders", Path(__file__).parents[1] / "conftest.py"
    )
    assert spec is not None
    assert spec.loader is not None
    shared: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shared)
    root = shared.build_repository(tmp_path_factory.mktemp("served") / "policies")
    with subprocess.Popen(
        [*COMMAND, "serve", "--policies", str(root), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        stop = threading.Timer(60, process.kill)
        stop.start()
        assert process.stdout is not None
        yield process.stdout.readline().split(" at ")[1].strip()
        stop.cancel()
        process.terminate()


@pytest.fixture
def slimq() -> Any:
    """Runs the command as a user would: exit code, stdout, stderr."""

    def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[Any]:
        variables = {**os.environ, **options.pop("variables", {})}
        options = {"text": True, "timeout": 60, **options}
        command = [*COMMAND, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, env=variables, check=False, **options)

    return run
