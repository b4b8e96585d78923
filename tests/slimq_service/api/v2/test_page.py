"""The examples of docs/serving.md run, and what it lists is there."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from places import ROOT

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def curl_lines() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines() if "curl" in line]


def test_every_curl_line_is_answered(address: str, tmp_path: Path) -> None:
    lines = curl_lines()
    assert len(lines) == 5
    answers = []
    for line in lines:
        command = line.replace("127.0.0.1:8000", address).replace("/tmp/", f"{tmp_path}/")
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], check=True, capture_output=True, timeout=60
        )
        answers.append(done.stdout)
    first = json.loads(answers[0])
    assert (first["id"], first["model_version"]) == ("7", "int8")
    assert (tmp_path / "answer.bin").read_bytes().startswith(b'{"model_name":"cartpole"')
    assert json.loads(answers[2])["versions"] == ["fp32", "int8"]
    assert {entry["state"] for entry in json.loads(answers[3])} == {"READY"}
    assert json.loads(answers[4])["load"] is False


@pytest.mark.slow
@pytest.mark.skipif(
    not PYTHON.exists() and "CI" not in os.environ, reason="`make slow` sets up the clients"
)
@pytest.mark.parametrize("block", blocks("python"))
def test_every_python_block_runs(address: str, block: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [PYTHON, "-c", block.replace("127.0.0.1:8000", address)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_page_names_every_path(service: Any) -> None:
    paths = [path for path in service.get("/openapi.json").json()["paths"] if "/v2" in path]
    assert paths
    for path in paths:
        suffix = path.removeprefix("/v2/models/{model}").removeprefix("/versions/{version}")
        assert f"`{path}`" in PAGE or f" {path}`" in PAGE or f"…{suffix}`" in PAGE, path
