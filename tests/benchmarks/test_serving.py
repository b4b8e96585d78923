from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import serving
from serving_cases import CASES

COMMAND = [sys.executable, str(Path(serving.__file__))]


def test_an_unknown_case_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(SystemExit, match="no case is named mlp; there are mlp-json-16, "):
        serving.choose(["mlp-json-1", "mlp"])


def test_cases_are_chosen_once_and_all_without_names() -> None:
    assert [case.name for case in serving.choose(["mlp-json-1", "mlp-json-1"])] == ["mlp-json-1"]
    assert serving.choose([]) == list(CASES)


@pytest.mark.parametrize("option", ["--rounds", "--seconds"])
def test_nothing_is_no_measurement(option: str) -> None:
    with pytest.raises(SystemExit):
        serving.parse_arguments([option, "0"])


def test_without_wrk_the_command_fails_and_says_how_to_get_it() -> None:
    environment = {**os.environ, "PATH": ""}
    ended = subprocess.run(COMMAND, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 1
    assert "apt-get install wrk" in ended.stderr


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_it_measures_and_prints_ratios(tmp_path: Path) -> None:
    names, written = ["mlp-json-16", "republish-frames-raw-16"], tmp_path / "figures.json"
    options = ["--rounds", "1", "--seconds", "2", "--json", str(written), "--cases", *names]
    ended = subprocess.run(
        [*COMMAND, *options], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    rows = [line.split() for line in ended.stdout.splitlines() if " / " in line]
    assert [row[1] for row in rows] == names
    assert "requests measured, none failed" in ended.stdout
    found = json.loads(written.read_text())
    assert {case["name"]: case["median"] > 0 for case in found["cases"]} == dict.fromkeys(
        names, True
    )
    assert found["observations"]["pong"].endswith("of the calibration set")
