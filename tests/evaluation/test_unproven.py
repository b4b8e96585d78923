"""A policy without an environment has agreement and regret on recorded states, and no returns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import make_policy_manifest
from parts import ACTIONS, SPECS, STATES, build_parts_repository, make_parts_model
from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import CheckFailedError, InvalidInputError
from slimq.core.manifest import RandomPolicyRecord
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.publish import content_entry
from slimq.core.repository import Repository
from slimq.core.seeds import SELECTION
from slimq.evaluation.comparison import compare_variants
from slimq.evaluation.plots import draw_plots, draw_training
from slimq.evaluation.protocol import EvaluationSettings
from slimq.evaluation.recommendation import Criteria, recommend
from slimq.evaluation.runner import evaluate_policy

SKIP = EvaluationSettings(latency="skip")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(build_parts_repository(tmp_path / "policies"))


@pytest.fixture
def evaluated(repository: Repository) -> Repository:
    assert not evaluate_policy(repository, "maze", settings=SKIP).failed
    return repository


def change(repository: Repository, **changes: Any) -> None:
    manifest = repository.policy("maze").model_copy(update=changes)
    path = repository.root / "maze" / "policy.json"
    path.write_text(manifest.model_dump_json())


def test_every_variant_is_compared_with_the_full_policy_on_the_recorded_states(
    repository: Repository,
) -> None:
    found = evaluate_policy(repository, "maze", settings=SKIP)
    calibration = repository.calibration(repository.policy("maze"))
    assert calibration is not None
    states = calibration.observations(SPECS["maze"])
    full, other = (
        OnnxPolicy(make_parts_model(SPECS["maze"], seed), SPECS["maze"], len(ACTIONS))(states)
        for seed in (0, 1)
    )
    chosen = other.argmax(axis=1)
    rows = np.arange(STATES)
    report = repository.report("maze", "other")
    assert report == found.reports["other"]
    assert report is not None
    assert report.fidelity is not None
    assert report.fidelity.states == STATES
    assert report.fidelity.agreement == (chosen == full.argmax(axis=1)).mean() < 1
    loss = (full.max(axis=1) - full[rows, chosen]).mean()
    assert report.fidelity.regret == pytest.approx(loss, rel=1e-5)
    assert (report.played, report.mean, report.returns) == (None, None, None)
    recorded = repository.policy("maze").calibration
    assert recorded is not None
    assert report.states_sha256 == recorded.sha256
    baseline = found.reports["fp32"].fidelity
    assert baseline is not None
    assert (baseline.agreement, baseline.regret) == (1, 0)


def test_what_is_up_to_date_is_not_measured_again_until_the_states_change(
    evaluated: Repository,
) -> None:
    assert evaluate_policy(evaluated, "maze", settings=SKIP).cached == ["fp32", "other"]
    old = evaluated.policy("maze").calibration
    assert old is not None
    content = evaluated.read_file("maze", old) + b"\0"  # a zip file may have something after it
    entry = content_entry("calibration", ".npz", content)
    (evaluated.root / "maze" / entry.path).write_bytes(content)
    change(evaluated, calibration=entry)
    found = evaluate_policy(evaluated, "maze", settings=SKIP)
    assert (found.cached, found.failed) == ([], {})
    assert found.reports["fp32"].states_sha256 == entry.sha256


@pytest.mark.slow
def test_latency_is_measured_on_the_recorded_states(evaluated: Repository) -> None:
    settings = EvaluationSettings(latency="only", iterations=2)
    found = evaluate_policy(evaluated, "maze", settings=settings)
    assert not found.failed
    report = evaluated.report("maze", "other")
    assert report is not None
    assert report.latency is not None
    assert sorted(report.latency.variants) == ["fp32", "other"]
    assert report.played is None


def test_without_states_or_on_other_seeds_it_is_refused(repository: Repository) -> None:
    with pytest.raises(InvalidInputError, match="held-out, as maze has no environment to play in"):
        evaluate_policy(repository, "maze", settings=EvaluationSettings(seed_range=SELECTION))
    change(repository, calibration=None)
    failed = evaluate_policy(repository, "maze", settings=SKIP).failed
    assert set(failed) == {"fp32", "other"}
    assert "neither an environment to play in nor recorded states" in str(failed["other"])


def test_a_comparison_says_that_nothing_was_proven_and_on_how_many_states(
    evaluated: Repository,
) -> None:
    comparison = compare_variants(evaluated, "maze")
    assert not comparison.proven_in_play
    assert comparison.evidence == (
        f"not proven in play: no environment; agreement and regret on {STATES} recorded states"
    )
    assert (comparison.protocol, comparison.random_mean) == (None, None)
    for row in comparison.rows:
        assert (row.mean, row.interval, row.iqm, row.difference) == (None, None, None, None)
        assert row.fidelity is not None
        assert row.notes == ()


def test_a_report_of_the_other_kind_is_no_evidence(evaluated: Repository) -> None:
    random = RandomPolicyRecord(mean=0, episodes=1, seeds="selection")
    change(evaluated, environment=EnvironmentSpec(id="CartPole-v1"), random_policy=random)
    comparison = compare_variants(evaluated, "maze")
    assert comparison.proven_in_play
    assert comparison.evidence is None
    for row in comparison.rows:
        assert (row.mean, row.fidelity) == (None, None)
        assert "from recorded states, not from play: run slimq evaluate maze" in row.notes[0]


def test_a_choice_needs_an_agreement_instead_of_a_return(evaluated: Repository) -> None:
    comparison = compare_variants(evaluated, "maze")
    with pytest.raises(CheckFailedError, match="choose by agreement with --min-agreement"):
        recommend(comparison, Criteria())
    strict = recommend(comparison, Criteria(min_agreement=0.999))
    assert strict.choice is not None
    assert strict.choice.variant == "fp32"
    assert (strict.choice.mean, strict.choice.low, strict.choice.agreement) == (None, None, 1.0)
    assert strict.evidence == comparison.evidence
    (rejected,) = strict.rejected
    assert "below 99.90%" in rejected.reasons[0]
    lenient = recommend(comparison, Criteria(min_agreement=0))
    assert lenient.choice is not None
    assert [lenient.choice.variant, *(one.variant for one in lenient.runners_up)] == [
        "fp32",
        "other",
    ], "of equal size, the one that agrees more"


def test_a_limit_on_returns_is_met_by_none(evaluated: Repository) -> None:
    criteria = Criteria(min_agreement=0, min_return=1)
    found = recommend(compare_variants(evaluated, "maze"), criteria)
    assert found.choice is None
    assert all("no return was measured" in one.reasons[0] for one in found.rejected)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_an_agreement_is_a_share(share: float) -> None:
    with pytest.raises(InvalidInputError, match="a share from 0 to 1"):
        Criteria(min_agreement=share)


def test_what_was_not_evaluated_is_not_chosen(repository: Repository) -> None:
    found = recommend(compare_variants(repository, "maze"), Criteria(min_agreement=0))
    assert found.choice is None
    assert all("not evaluated" in one.reasons[0] for one in found.rejected)


def test_plots_have_no_returns_and_no_training(evaluated: Repository, tmp_path: Path) -> None:
    assert draw_plots(compare_variants(evaluated, "maze"), tmp_path) == []
    assert draw_training(evaluated.policy("maze"), tmp_path) == []
    untold = make_policy_manifest("tiny").model_copy(update={"random_policy": None})
    assert len(draw_training(untold, tmp_path)) == 2


def test_a_report_on_disk_has_no_returns(evaluated: Repository) -> None:
    entry = evaluated.variant("maze", "other").report
    assert entry is not None
    path = evaluated.root / "maze" / "variants" / "other" / entry.path
    document = json.loads(path.read_text())
    assert document["returns"] is None
    assert document["protocol"] is None
