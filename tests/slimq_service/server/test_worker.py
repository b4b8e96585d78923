from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from slimq.core.errors import ConfigError
from slimq_service.server import worker
from slimq_service.server.orders import Orders
from slimq_service.settings import Settings


def test_a_start_that_fails_is_one_line_and_a_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_repository: Path
) -> None:
    def fail(*_: Any) -> None:
        raise ConfigError("settings", "SLIMQ_PROVIDERS", "cuda does not start")

    settings = Settings(policies=tiny_repository).reveal()
    orders = Orders(settings, [], str(tmp_path), 0, 20).encode()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(orders)))
    monkeypatch.setattr(worker, "create_app", fail)
    monkeypatch.setattr(worker, "configure_logs", lambda _: None)
    with capture_logs() as logs, pytest.raises(SystemExit) as ended:
        worker.main(1)
    assert ended.value.code == 3
    (log,) = logs
    assert (log["event"], log["problem"]) == (
        "start failed",
        "settings: SLIMQ_PROVIDERS: cuda does not start",
    )
    assert json.loads(settings)["providers"] == ["cpu"]


def test_what_libraries_print_never_fills_the_pipe_to_the_supervisor() -> None:
    """A pipe holds 64 KiB: who printed more would stand still."""
    code = (
        "import os; from slimq_service.server.orders import UP;"
        "from slimq_service.server.worker import keep_output; kept = keep_output();"
        "print('x' * 200_000); os.write(1, b'y' * 200_000); os.write(kept, UP)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    assert done.stdout == worker.UP
    assert len(done.stderr) >= 400_000
