"""The scripts for k6 and locust against a real service, and what they say of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from running import serve

ROOT = Path(__file__).parents[2]
LOAD = ROOT / "benchmarks" / "load"
PROGRAMS = ROOT / ".venv-clients" / "bin"
VARIANTS = ("fp32", "tiny")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.skipif(
        not (PROGRAMS / "k6").exists() and "CI" not in os.environ,
        reason="`make slow` sets up k6 and locust",
    ),
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a service of the shipped policies that asks for a key."""
    with serve(ROOT / "policies", 600, SLIMQ_API_KEY="s3cret") as (_, url):
        yield url


@pytest.fixture(scope="module")
def observations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `observations.py` writes."""
    path = tmp_path_factory.mktemp("load") / "pong.bin"
    command = [sys.executable, str(LOAD / "observations.py"), "pong", str(path)]
    done = subprocess.run(
        [*command, "--policies", str(ROOT / "policies")], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{path}: 256 observations of 28,224 bytes\n"
    assert path.stat().st_size == 256 * 28_224
    return path


@pytest.fixture
def run(url: str, observations: Path) -> Any:
    """Runs a program with the variables that both scripts read."""

    def call(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        asked = {
            "URL": url,
            "OBSERVATIONS": str(observations),
            "VARIANTS": ",".join(VARIANTS),
            "SLIMQ_API_KEY": "s3cret",
            **variables,
        }
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, **asked},
            timeout=120,
            check=False,
        )

    return call


def answered(url: str) -> dict[str, int]:
    """How many requests for Pong the service has answered, by variant."""
    stats = httpx.get(f"{url}/v2/models/pong/stats", headers={"authorization": "Bearer s3cret"})
    return {
        entry["version"]: int(entry["inference_stats"]["success"]["count"])
        for entry in stats.raise_for_status().json()["model_stats"]
    }


@pytest.mark.parametrize("mode", ["open", "closed", "steps"])
def test_k6_says_what_the_service_counts(run: Any, url: str, tmp_path: Path, mode: str) -> None:
    before = answered(url)
    variables = {"MODE": mode, "RATE": "40", "SECONDS": "2", "STEPS": "2", "CONNECTIONS": "2"}
    output = tmp_path / "k6.json"
    command = [str(PROGRAMS / "k6"), "run", "-q", "--no-usage-report", str(LOAD / "k6.js")]
    done = run(command, **variables, OUTPUT=str(output))
    assert done.returncode == 0, done.stderr
    document = json.loads(output.read_text())
    rows = [dict(zip(document["head"], row, strict=True)) for row in document["rows"]]
    after = answered(url)
    for variant in VARIANTS:
        sent = {}
        for row in [row for row in rows if row["variant"] == variant]:
            assert row["failed"] == "0"
            assert 0 < float(row["p50 ms"]) <= float(row["p99 ms"]) <= float(row["max ms"])
            sent[row["due/s"]] = round(2 * float(row["requests/s"]))
            if mode != "closed":
                due = 2 * float(row["due/s"])
                assert abs(sent[row["due/s"]] + int(row["dropped"]) - due) <= 2
        assert set(sent) == {"open": {"40"}, "closed": {"–"}, "steps": {"40", "60"}}[mode]
        assert after[variant] - before.get(variant, 0) == sum(sent.values()) + 1  # one warms up
    assert "variant" in done.stdout


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"POLICY": "none"}, "unknown policy"),
        ({"SLIMQ_API_KEY": "wrong"}, "401"),
        ({"MODE": "x"}, "MODE: expected closed, open, steps, received x"),
        ({"VARIANTS": "fp32,none"}, "none: 404"),
    ],
)
def test_k6_says_what_is_wrong(run: Any, variables: dict[str, str], message: str) -> None:
    command = [str(PROGRAMS / "k6"), "run", "-q", "--no-usage-report", str(LOAD / "k6.js")]
    done = run(command, **{"SECONDS": "1", **variables})
    assert done.returncode != 0
    assert message in done.stderr


def test_locust_says_what_the_service_counts(run: Any, url: str, tmp_path: Path) -> None:
    before = answered(url)
    options = ["--headless", "--only-summary", "--host", url, "--json"]
    command = [str(PROGRAMS / "locust"), "-f", str(LOAD / "locustfile.py"), *options]
    done = run(command, SECONDS="3", CONNECTIONS="2")
    assert done.returncode == 0, done.stderr
    entries = {entry["name"]: entry for entry in json.loads(done.stdout)}
    after = answered(url)
    for variant in VARIANTS:
        entry = entries[variant]
        assert entry["num_failures"] == 0
        sent = after[variant] - before.get(variant, 0)
        # What is under way at the end is answered by the service and not heard by locust.
        assert 0 <= sent - entry["num_requests"] <= 2
        assert entry["num_requests"] > 10


def test_locust_fails_where_the_policy_is_not(run: Any, url: str) -> None:
    options = ["--headless", "--only-summary", "--host", url]
    command = [str(PROGRAMS / "locust"), "-f", str(LOAD / "locustfile.py"), *options]
    done = run(command, SECONDS="1", POLICY="none")
    assert done.returncode == 1
    assert "404" in done.stdout + done.stderr
