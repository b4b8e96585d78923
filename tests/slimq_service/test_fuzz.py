"""Requests made from the document of the interface: no operation answers with a server error."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from places import ROOT

PROGRAM = ROOT / ".venv-clients" / "bin" / "schemathesis"
CONFIG = """
[parameters]
policy = "tiny"
variant = "fp32"
model = "tiny"
version = "fp32"

[[operations]]
include-path-regex = "/ready$"
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", 503]
"""
"""Names that are there, or nearly all would end with 404. What was unloaded is not ready: 503."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PROGRAM.exists() and "CI" not in os.environ, reason="`make slow` sets up schemathesis"
    ),
]


@pytest.mark.parametrize("parameters", ["known", "generated"])
def test_no_request_of_the_documented_kind_is_a_server_error(
    launch: Any, tiny_repository: Path, tmp_path: Path, parameters: str
) -> None:
    process = launch(tiny_repository, tmp_path / "log")
    (tmp_path / "schemathesis.toml").write_text(CONFIG if parameters == "known" else "")
    done = subprocess.run(
        [
            PROGRAM,
            "--config-file",
            tmp_path / "schemathesis.toml",
            "run",
            process.url + "/openapi.json",
            *("--checks", "not_a_server_error"),
            *("--max-examples", "50", "--seed", "1", "--workers", "1"),
            *("--request-timeout", "10", "--no-color"),
        ],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "Traceback" not in process.log.read_text()
    answered = httpx.get(process.url + "/metrics").text
    counts = [r for r in answered.splitlines() if r.startswith("slimq_requests_total{")]
    assert sum(float(row.rpartition(" ")[2]) for row in counts) > 100
