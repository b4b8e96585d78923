from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import neighbour
from neighbour import BASE, JOBS, SIDES, figures, literal, row


def test_a_neighbour_is_busy_until_it_is_no_longer_needed() -> None:
    def seconds(pid: int) -> int:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(values[11]) + int(values[12])

    with neighbour.neighbour(1) as (process,):
        deadline = time.monotonic() + 30
        while seconds(process.pid) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert process.poll() is not None


def test_ratios_are_those_of_a_round() -> None:
    rates = {side: [50.0, 200.0] for side in SIDES}
    rates[BASE] = [100.0, 200.0]
    found = figures(JOBS[0], rates)
    assert [(one["threads"], one["neighbour"]) for one in found] == [
        (0, False),
        (None, True),
        (0, True),
    ]
    assert found[0]["ratio"] == {"median": 0.75, "low": 0.5, "high": 1.0}
    assert row(found[1])[2:] == ["default", "busy", "125", "150", "0.75", "0.50", "1.00"]


def test_values_are_written_as_toml() -> None:
    assert literal({"a": [1, {"b": True}], "c": "x"}) == '{a = [1, {b = true}], c = "x"}'


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match=r"nothing\.toml: file: No such file"):
        neighbour.slimq("train", "nothing.toml")


@pytest.mark.slow
def test_it_compares_training_and_compression_with_one_thread_alone(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    command = [sys.executable, str(Path(neighbour.__file__)), "--rounds", "1", "--scale", "0.05"]
    command += ["--jobs", "train-cartpole", "compress-cartpole", "--json", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stderr
    rows = [line.split(" | ") for line in ended.stdout.splitlines()[-6:]]
    assert [row[0].strip("| ") for row in rows] == ["train cartpole"] * 3 + [
        "compress cartpole"
    ] * 3
    written = json.loads(path.read_text())
    assert {"processor", "cores", "variables", "figures"} == set(written)
    assert all(rate > 0 for one in written["figures"] for rate in one["rates"])
    assert len(written["figures"]) == len(rows)
