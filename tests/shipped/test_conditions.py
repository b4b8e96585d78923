"""A shipped policy under the standard conditions, and under one as docs/evidence.md shows it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from running import COMMAND
from slimq.core.conditions.catalogue import standard_conditions
from slimq.core.repository import Repository

ROOT = Path(__file__).parents[2]
SHIPPED = Repository(ROOT / "policies")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A copy of CartPole's folder."""
    shutil.copytree(SHIPPED.root / "cartpole", tmp_path / "policies" / "cartpole")
    return Repository(tmp_path / "policies")


def slimq(folder: Path, *arguments: str) -> str:
    """What a command prints in this folder, where its policies are."""
    command = [*COMMAND, *arguments, "--policies", "policies"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=1_800, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_variant_of_cartpole_is_played_under_the_standard_conditions(
    repository: Repository, tmp_path: Path
) -> None:
    command = ["evaluate", "cartpole", "--conditions", "--condition-episodes", "20", "--no-latency"]
    printed = slimq(tmp_path, *command)
    conditions = standard_conditions(repository.policy("cartpole").observation)
    assert len(conditions) == 5
    variants = repository.variants("cartpole")
    assert len(variants) > 5
    for name in variants:
        report, shipped = (found.report("cartpole", name) for found in (repository, SHIPPED))
        assert report is not None
        assert shipped is not None
        assert (report.returns, report.latency) == (shipped.returns, shipped.latency)
        for condition in conditions:
            found = report.under(condition)
            assert found is not None, f"{name} under {condition.label}"
            assert len(found.returns) >= 20
            assert f"  {condition.label}: mean {found.mean:.2f} (" in printed
    again = slimq(tmp_path, *command)
    assert again.count("(already evaluated)") == len(variants)
    rows = json.loads(slimq(tmp_path, "compare", "cartpole", "--json"))["rows"]
    assert len(rows) == len(variants)
    for row in rows:
        assert row["robustness"]["missing"] == []
        assert row["robustness"]["robust"] in (True, False)
    assert rows[0]["variant"] == "fp32"
    assert rows[0]["robustness"]["robust"] is True


@pytest.mark.slow
def test_the_example_of_a_condition_of_ones_own_is_played(
    repository: Repository, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    (line,) = re.findall(r"^slimq (evaluate .*my_conditions.*)$", page, flags=re.MULTILINE)
    (tmp_path / "my_conditions.py").write_text(code, encoding="utf-8")
    printed = slimq(tmp_path, *shlex.split(line), "--no-latency")
    (shown,) = re.findall(r"^```\n(fp32: .*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert [text.partition("mean")[0] for text in printed.splitlines()] == [
        text.partition("mean")[0] for text in shown.splitlines()
    ]
    means = {}
    for name in ("fp32", "micro"):
        report = repository.report("cartpole", name)
        assert report is not None
        (own,) = (found for found in report.conditions if found.code_sha256 is not None)
        assert len(own.returns) == 20
        assert report.mean == 500
        means[name] = own.mean
    assert means["fp32"] > 450
    assert means["micro"] < 400
