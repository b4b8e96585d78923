from __future__ import annotations

import io
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from slimq.core.errors import ConfigError
from slimq_service.http.worker_table import WorkerTable
from slimq_service.server import worker
from slimq_service.server.worker_ipc import WorkerConfig
from slimq_service.settings import Settings


def test_a_start_that_fails_is_one_line_and_a_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_repository: Path
) -> None:
    def fail(*_: Any) -> None:
        raise ConfigError("settings", "SLIMQ_PROVIDERS", "cuda does not start")

    settings = Settings(policies=tiny_repository).reveal()
    table = WorkerTable.create(1)
    config = WorkerConfig(settings, 0, table.descriptor, str(tmp_path), 0, 20).encode()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(config)))
    monkeypatch.setattr(worker, "create_app", fail)
    monkeypatch.setattr(worker, "configure_logs", lambda _: None)
    with capture_logs() as logs, pytest.raises(SystemExit) as ended:
        worker.main()
    assert ended.value.code == 3
    (log,) = logs
    assert (log["event"], log["problem"]) == (
        "start failed",
        "settings: SLIMQ_PROVIDERS: cuda does not start",
    )
    assert json.loads(settings)["providers"] == ["cpu"]


def test_what_libraries_print_goes_to_the_log_and_never_fills_a_pipe(
    tiny_repository: Path, tmp_path: Path, process_class: Any
) -> None:
    """A pipe holds 64 KiB: a worker that printed more would stand still."""
    noise = "import sys\nif sys.argv[:1] == ['-m']:\n    print('x' * 200_000, flush=True)\n"
    (tmp_path / "sitecustomize.py").write_text(noise)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    process = process_class(tiny_repository, tmp_path / "log", SLIMQ_WORKERS="2", PYTHONPATH=path)
    try:
        assert "x" * 200_000 in process.log.read_text()
    finally:
        process.close()
