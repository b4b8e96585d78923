from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from running import COMMAND
from slimq.cli.main import app


def test_a_missing_directory_is_refused_with_a_remedy(slimq: Any, tmp_path: Path) -> None:
    done = slimq("serve", "--policies", tmp_path / "none")
    assert done.returncode == 2
    assert "none: no such folder; give one with --policies" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_bad_variable_is_refused_by_name(slimq: Any, tmp_path: Path) -> None:
    variables = {"SLIMQ_MAX_BODY_BYTES": "huge"}
    done = slimq("serve", "--policies", tmp_path, variables=variables)
    assert done.returncode == 2
    assert "SLIMQ_MAX_BODY_BYTES" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_invalid_port_exits_with_2(slimq: Any, tmp_path: Path) -> None:
    assert slimq("serve", "--policies", tmp_path, "--port", "70000").returncode == 2


def test_flags_take_precedence_and_port_zero_prints_the_port(tiny_repository: Path) -> None:
    variables = {**os.environ, "SLIMQ_PORT": "1", "SLIMQ_POLICIES": "/none", "SLIMQ_MAX_BACH": "9"}
    with subprocess.Popen(
        [*COMMAND, "serve", "--policies", str(tiny_repository), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=variables,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert str(tiny_repository) in line
        url = line.split(" at ")[1].strip()
        assert httpx.get(url + "/readyz").json()["ready"] is True, "it can be reached at once"
        answer = httpx.post(url + "/v1/policies/tiny/act", json={"observations": [[0] * 4]})
        assert answer.status_code == 200
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
    entries = list(map(json.loads, errors.splitlines()))
    assert all({"event", "level", "timestamp"} <= set(entry) for entry in entries)
    (warned,) = [entry for entry in entries if entry.get("variable") == "SLIMQ_MAX_BACH"]
    assert (warned["level"], warned["did_you_mean"]) == ("warning", "SLIMQ_MAX_BATCH")


@pytest.mark.parametrize(("flags", "level"), [([], logging.INFO), (["-v"], logging.DEBUG)])
def test_verbose_logs_at_debug_level(
    monkeypatch: pytest.MonkeyPatch, tiny_repository: Path, flags: list[str], level: int
) -> None:
    levels: list[int] = []
    monkeypatch.setattr("slimq_service.server.logs.configure_logs", levels.append)
    monkeypatch.setattr("slimq_service.server.serve.serve", lambda *args, **kwargs: None)
    arguments = [*flags, "serve", "--policies", str(tiny_repository)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert levels == [level]
