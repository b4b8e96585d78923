"""What is promised of the shipped policies, read from their manifests and reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimq.cli.compare import COLUMNS, table_row
from slimq.core.repository import Repository
from slimq.core.seeds import HELD_OUT
from slimq.core.text_tables import markdown_table
from slimq.core.verification import find_problems
from slimq.evaluation.comparison import Comparison, compare_variants
from slimq_compression.recipe import load_recipe
from slimq_compression.recipe_files import resolve_recipe

ROOT = Path(__file__).parents[2]
REPOSITORY = Repository(ROOT / "policies")
SMALLER = {
    "int8-dynamic": 3.4,
    "int8": 3.9,
    "qat-int8": 3.9,
    "int8-percentile": 3.9,
    "int8-kl": 3.9,
    "int4-blocks": 5.0,
    "qat-int4": 5.0,
    "int4-linear": 7.5,
    "int4-kmeans": 7.5,
    "int4-log": 7.5,
    "int4-activations": 7.5,
    "pruned-l1": 8.0,
    "pruned-taylor": 8.0,
    "pruned-obd": 8.0,
    "pruned-slimming": 8.0,
    "pruned-int8": 8.0,
    "low-rank": 8.0,
    "tucker": 8.0,
    "shufflenet-undisturbed": 13.0,
    "mobilenet-undisturbed": 14.0,
    "int2-kmeans": 14.0,
    "deep-compression": 49.0,
    "fastest": 50.0,
    "tiny": 400.0,
}
"""By how much each of Pong's variants is smaller than the full policy, at least."""
CONTROLS = {"dense-control"}
"""Published whatever they keep."""


FEATURED = ("cartpole", "pong")
"""Policies whose tables are in the README; those of all others are in docs/suite.md."""
EVALUATED = [
    policy
    for policy in REPOSITORY.policies()
    if any(REPOSITORY.report(policy, name) for name in REPOSITORY.variants(policy))
]
"""Policies that have more than a checkpoint."""


@pytest.fixture(params=EVALUATED)
def comparison(request: pytest.FixtureRequest) -> Comparison:
    return compare_variants(REPOSITORY, request.param)


def test_the_repository_is_whole() -> None:
    assert set(FEATURED) <= set(EVALUATED)
    for policy in REPOSITORY.policies():
        assert find_problems(REPOSITORY, policy) == []


def test_every_variant_was_evaluated_on_the_same_held_out_episodes(comparison: Comparison) -> None:
    assert not comparison.failed
    for row in comparison.rows:
        report = REPOSITORY.report(comparison.policy, row.variant)
        assert report is not None
        assert report.protocol == comparison.protocol
        assert report.protocol.epsilon == 0.01
        assert len(report.seeds) >= 100
        assert report.seeds == HELD_OUT.seeds(len(report.seeds))
        assert report.latency is not None
        assert row.notes == ()
        assert row.distinct_trajectories is not None
        if comparison.policy in FEATURED:
            assert row.distinct_trajectories >= 95


def test_every_variant_but_the_controls_is_non_inferior_to_the_full_policy(
    comparison: Comparison,
) -> None:
    for row in comparison.rows:
        assert row.difference is not None
        assert row.difference.margin == 0.02
        assert row.difference.non_inferior or row.variant in CONTROLS, row.variant


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
    assert set(rows) == {"fp32", *SMALLER, *CONTROLS}
    for variant, factor in SMALLER.items():
        assert full.bytes >= factor * rows[variant].bytes, variant


def test_every_shipped_variant_was_made_by_the_recipe_that_is_shipped() -> None:
    for policy in REPOSITORY.policies():
        for name in REPOSITORY.variants(policy):
            recipe = load_recipe(resolve_recipe(name, policy, ROOT / "recipes"))
            made = REPOSITORY.variant(policy, name).recipe
            assert made.seed == recipe.seed
            steps = [(step.name, step.parameters) for step in made.steps]
            assert steps == recipe.fingerprint, f"{policy}/{name}"


def test_the_calibration_sets_are_small() -> None:
    for policy in REPOSITORY.policies():
        calibration = REPOSITORY.policy(policy).calibration
        assert calibration is not None
        assert calibration.bytes <= 2_000_000


@pytest.mark.parametrize("policy", FEATURED)
def test_the_readme_has_the_table_that_compare_prints(policy: str) -> None:
    comparison = compare_variants(REPOSITORY, policy)
    table = markdown_table([COLUMNS, *(table_row(row) for row in comparison.rows)])
    assert table in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("policy", FEATURED)
def test_the_readme_has_what_the_manifest_says_of_the_training(policy: str) -> None:
    manifest = REPOSITORY.policy(policy)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if f"| {manifest.training.steps:,} |" in line)
    assert f"| {manifest.training.updates:,} |" in row
    assert f"{manifest.random_policy.mean:.2f}".replace("-", "−") in row
