"""What is promised of the shipped policies, read from their manifests and reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimq.cli.compare import render_markdown, table_row
from slimq.core.repository import Repository
from slimq.core.seeds import HELD_OUT
from slimq.evaluation.comparison import Comparison, compare_variants

ROOT = Path(__file__).parents[2]
REPOSITORY = Repository(ROOT / "policies")
VARIANTS = ["fp32", "int8", "pruned-int8"]


@pytest.fixture(params=REPOSITORY.policies())
def comparison(request: pytest.FixtureRequest) -> Comparison:
    return compare_variants(REPOSITORY, request.param)


def test_the_repository_is_whole() -> None:
    assert REPOSITORY.policies() == ["cartpole", "pong"]
    for policy in REPOSITORY.policies():
        assert REPOSITORY.verify(policy) == []


def test_every_variant_was_evaluated_on_the_same_held_out_episodes(comparison: Comparison) -> None:
    assert sorted(row.variant for row in comparison.rows) == VARIANTS
    assert not comparison.failed
    for row in comparison.rows:
        report = REPOSITORY.report(comparison.policy, row.variant)
        assert report is not None
        assert report.protocol == comparison.protocol
        assert report.protocol.epsilon == 0.01
        assert report.seeds == HELD_OUT.seeds(100)
        assert report.latency is not None
        assert row.notes == ()
        assert row.distinct_trajectories is not None
        assert row.distinct_trajectories >= 95


def test_every_variant_is_non_inferior_to_the_full_policy(comparison: Comparison) -> None:
    for row in comparison.rows:
        assert row.difference is not None
        assert row.difference.margin == 0.02
        assert row.difference.non_inferior


def test_cartpole_balances_to_the_end_in_every_episode() -> None:
    report = REPOSITORY.report("cartpole", "fp32")
    assert report is not None
    assert set(report.returns) == {500.0}


def test_pong_wins_and_is_small() -> None:
    rows = {row.variant: row for row in compare_variants(REPOSITORY, "pong").rows}
    full = rows["fp32"]
    assert full.parameters == 1_687_206
    assert full.mean is not None
    assert full.mean >= 20.0
    assert full.bytes >= 3.9 * rows["int8"].bytes
    assert full.bytes >= 8 * rows["pruned-int8"].bytes


def test_the_calibration_sets_are_small() -> None:
    for policy in REPOSITORY.policies():
        calibration = REPOSITORY.policy(policy).calibration
        assert calibration is not None
        assert calibration.bytes <= 2_000_000


def test_the_readme_has_the_table_that_compare_prints(comparison: Comparison) -> None:
    table = render_markdown([table_row(row) for row in comparison.rows])
    assert table in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_has_what_the_manifest_says_of_the_training(comparison: Comparison) -> None:
    manifest = REPOSITORY.policy(comparison.policy)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if f"| {manifest.training.steps:,} |" in line)
    assert f"| {manifest.training.updates:,} |" in row
    assert f"{manifest.random_policy.mean:.2f}".replace("-", "−") in row
