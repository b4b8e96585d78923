from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from condition_reports import publish_report
from parts import build_parts_repository
from slimq.core.errors import InvalidInputError
from slimq.core.evidence import Judgement, describe_evidence, judge, read_judgement
from slimq.core.repository import Repository

ALL = "noise=0.01, bias=0.01, held=0.1, sticky=0.25, delayed=1"


def text_of(root: Path, variant: str = "other", policy: str = "tiny") -> str:
    repository = Repository(root)
    manifest, found = repository.policy(policy), repository.variant(policy, variant)
    report = repository.report(policy, variant)
    judgement = read_judgement(repository, manifest, found, report)
    return describe_evidence(manifest, found, report, judgement)


def test_a_variant_that_was_not_evaluated(tiny_repository: Path) -> None:
    assert text_of(tiny_repository) == "No evidence: this variant has not been evaluated."


@pytest.mark.parametrize(
    ("full", "variant", "verdict"),
    [
        ({}, {}, f"Robust: non-inferior to fp32 undisturbed and under {ALL}."),
        (
            {},
            {"noise": 60.0, "held": 50.0},
            "Not robust: its loss relative to fp32 may exceed the margin under noise=0.01, "
            "held=0.1.",
        ),
        (
            None,
            {},
            "Robustness unknown: non-inferior to fp32 undisturbed; not compared over enough "
            f"episodes under {ALL}.",
        ),
        (
            dict.fromkeys(("noise", "bias", "held", "sticky", "delayed"), 100.0),
            {},
            f"Robustness unknown: non-inferior to fp32 undisturbed; undecided under {ALL}, where "
            "fp32 itself loses too much.",
        ),
        (
            {"sticky": 100.0},
            {"sticky": 110.0},
            "Robust: non-inferior to fp32 undisturbed and under noise=0.01, bias=0.01, held=0.1, "
            "delayed=1; undecided under sticky=0.25, where fp32 itself loses too much.",
        ),
    ],
)
def test_the_verdict_and_the_conditions_that_it_refers_to(
    tiny_repository: Path, full: Any, variant: Any, verdict: str
) -> None:
    publish_report(tiny_repository, "fp32", full)
    publish_report(tiny_repository, "other", variant)
    assert verdict in text_of(tiny_repository)


def test_a_loss_in_undisturbed_play_is_named(tiny_repository: Path) -> None:
    publish_report(tiny_repository, "fp32", {})
    publish_report(tiny_repository, "other", {}, returns=(50.0, 60.0, 55.0, 65.0) * 5)
    assert "may exceed the margin undisturbed and under noise=0.01" in text_of(tiny_repository)


@pytest.mark.parametrize(
    ("lost", "rest"), [({}, f", also under {ALL}"), (None, ", undisturbed only")]
)
def test_the_full_policy_is_said_to_be_it(tiny_repository: Path, lost: Any, rest: str) -> None:
    publish_report(tiny_repository, "fp32", lost)
    expected = f"It is the full policy, with which others are compared{rest}."
    assert expected in text_of(tiny_repository, "fp32")


def test_without_the_baselines_report_the_reason_is_given(tiny_repository: Path) -> None:
    publish_report(tiny_repository, "other", {})
    assert "Robustness unknown: policy tiny: expected an evaluated baseline, fp32" in text_of(
        tiny_repository
    )


def test_a_policy_without_an_environment_has_no_judgement(tmp_path: Path) -> None:
    repository = Repository(build_parts_repository(tmp_path / "parts"))
    manifest, variant = repository.policy("maze"), repository.variant("maze", "fp32")
    report = repository.report("maze", "fp32")
    assert read_judgement(repository, manifest, variant, report) is None


def test_a_comparison_that_would_take_too_long_is_refused(tiny_repository: Path) -> None:
    publish_report(tiny_repository, "fp32", {})
    repository = Repository(tiny_repository)
    policy, variant = repository.policy("tiny"), repository.variant("tiny", "fp32")
    report = repository.report("tiny", "fp32")
    with pytest.raises(InvalidInputError, match="expected at most 10 draws of its bootstraps"):
        judge(policy, variant, report, variant, report, 10)
    assert Judgement().fails_under == []
