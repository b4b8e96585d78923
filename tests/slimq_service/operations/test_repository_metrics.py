from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from condition_reports import publish_report
from parts import build_parts_repository
from places import POLICIES
from slimq.core.conditions.catalogue import Condition
from slimq.core.publish import Publisher
from slimq.core.repository import Repository
from slimq.evaluation.protocol import EvaluationSettings
from slimq.evaluation.runner import evaluate_policy

OF_INT8 = '{policy="cartpole",variant="int8"}'


@pytest.fixture
def evaluated(tmp_path: Path) -> Repository:
    """CartPole as it is shipped, with its reports, of two variants."""
    root = tmp_path / "evaluated"
    shutil.copytree(POLICIES / "cartpole", root / "cartpole")
    for folder in (root / "cartpole" / "variants").iterdir():
        if folder.name not in {"fp32", "int8"}:
            shutil.rmtree(folder)
    return Repository(root)


def test_a_variants_facts_are_those_of_its_manifest_and_report(
    evaluated: Repository, start: Any
) -> None:
    service = start(evaluated.root)
    manifest, report = evaluated.variant("cartpole", "int8"), evaluated.report("cartpole", "int8")
    assert report is not None
    assert report.fidelity is not None
    assert service.metric("slimq_variant_bytes" + OF_INT8) == manifest.model.bytes
    assert service.metric("slimq_variant_parameters" + OF_INT8) == manifest.parameters
    assert service.metric("slimq_variant_macs" + OF_INT8) == manifest.macs
    assert service.metric("slimq_variant_return" + OF_INT8) == report.mean
    assert service.metric("slimq_variant_return_low" + OF_INT8) == report.interval.low
    assert service.metric("slimq_variant_return_high" + OF_INT8) == report.interval.high
    agreement = service.metric("slimq_variant_agreement_ratio" + OF_INT8)
    assert agreement == report.fidelity.agreement
    sha256 = manifest.model.sha256[:12]
    labels = f'{{policy="cartpole",variant="int8",precision="int8",sha256="{sha256}"}}'
    assert service.metric("slimq_variant_info" + labels) == 1
    random = evaluated.policy("cartpole").random_policy.mean
    assert service.metric('slimq_policy_random_return{policy="cartpole"}') == random
    assert service.metric('slimq_policy_proven_in_play{policy="cartpole"}') == 1


def test_the_baseline_and_the_default_are_told_apart(evaluated: Repository, start: Any) -> None:
    Publisher(evaluated).promote("cartpole", "int8")
    service = start(evaluated.root)
    full = '{policy="cartpole",variant="fp32"}'
    assert service.metric("slimq_variant_baseline" + full) == 1
    assert service.metric("slimq_variant_baseline" + OF_INT8) == 0
    assert service.metric("slimq_variant_default" + full) == 0
    assert service.metric("slimq_variant_default" + OF_INT8) == 1


def test_what_was_never_evaluated_has_no_return(service: Any) -> None:
    text = service.get("/metrics").text
    assert 'slimq_variant_bytes{policy="tiny",variant="fp32"}' in text
    assert "slimq_variant_return" not in text
    assert "slimq_variant_agreement_ratio" not in text


def test_what_was_proven_of_one_model_is_not_said_of_the_next(
    evaluated: Repository, start: Any
) -> None:
    service = start(evaluated.root)
    assert "slimq_variant_return" + OF_INT8 in service.get("/metrics").text
    full = evaluated.variant("cartpole", "fp32")
    model = (evaluated.root / "cartpole" / "variants" / "fp32" / full.model.path).read_bytes()
    other = full.model_copy(update={"name": "int8", "report": None})
    Publisher(evaluated).publish_variant(other, model)
    service.run(service.app.catalogue.refresh())
    text = service.get("/metrics").text
    assert "slimq_variant_return" + OF_INT8 not in text
    assert 'slimq_variant_return{policy="cartpole",variant="fp32"}' in text


def test_the_facts_of_a_variant_that_has_gone_go_with_it(evaluated: Repository, start: Any) -> None:
    service = start(evaluated.root)
    assert "slimq_variant_info" in service.get("/metrics").text
    shutil.rmtree(evaluated.root / "cartpole" / "variants" / "int8")
    service.run(service.app.catalogue.refresh())
    text = service.get("/metrics").text
    facts = [line for line in text.splitlines() if line.startswith("slimq_variant_info{")]
    assert len(facts) == 1
    assert 'variant="fp32"' in facts[0]


def test_a_broken_report_costs_nothing_but_what_it_would_prove(
    evaluated: Repository, start: Any
) -> None:
    service = start(evaluated.root)
    entry = evaluated.variant("cartpole", "int8").report
    assert entry is not None
    (evaluated.root / "cartpole" / "variants" / "int8" / entry.path).write_text("{")
    text = service.get("/metrics").text
    assert "slimq_variant_bytes" + OF_INT8 in text
    assert "slimq_variant_return" + OF_INT8 not in text


def test_a_broken_report_is_read_once_until_it_is_mended(
    evaluated: Repository, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = evaluated.variant("cartpole", "int8").report
    assert entry is not None
    path = evaluated.root / "cartpole" / "variants" / "int8" / entry.path
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    service = start(evaluated.root)
    asked: list[str] = []
    read = Repository.report

    def counted(self: Repository, policy: str, variant: str) -> Any:
        asked.append(variant)
        return read(self, policy, variant)

    monkeypatch.setattr(Repository, "report", counted)
    for _ in range(3):
        assert "slimq_variant_return" + OF_INT8 not in service.get("/metrics").text
    assert asked.count("int8") == 1
    path.write_bytes(good)
    assert "slimq_variant_return" + OF_INT8 in service.get("/metrics").text
    assert sorted(asked) == ["fp32", "int8", "int8"]


def test_a_policy_without_an_environment_has_an_agreement_and_no_returns(
    start: Any, tmp_path: Path
) -> None:
    root = build_parts_repository(tmp_path / "parts")
    settings = EvaluationSettings(latency="skip")
    fidelity = (
        evaluate_policy(Repository(root), "maze", settings=settings).reports["other"].fidelity
    )
    assert fidelity is not None
    service = start(root)
    of_other = '{policy="maze",variant="other"}'
    agreement = service.metric("slimq_variant_agreement_ratio" + of_other)
    assert agreement == fidelity.agreement
    assert service.metric('slimq_policy_proven_in_play{policy="maze"}') == 0
    text = service.get("/metrics").text
    assert "slimq_variant_return" not in text
    assert "slimq_policy_random_return" not in text


def test_robustness_is_exposed_once_it_is_known(tiny_repository: Path, start: Any) -> None:
    publish_report(tiny_repository, "fp32", {})
    publish_report(tiny_repository, "other", {"noise": 60.0, "sticky": 1.0})
    publish_report(tiny_repository, "fp32", policy="tiny_frames")
    service = start()
    known = service.app.catalogue.evidence
    service.until(lambda: known.find("tiny_frames", "fp32").robustness is not None)
    of_other = 'policy="tiny",variant="other"'
    assert service.metric('slimq_variant_robust{policy="tiny",variant="fp32"}') == 1
    assert service.metric(f"slimq_variant_robust{{{of_other}}}") == 0
    low = "slimq_variant_condition_difference_low"
    noise = service.metric(f'{low}{{{of_other},condition="noise=0.01"}}')
    assert noise == pytest.approx(-60 / (115 - 22))
    assert service.metric(f'{low}{{{of_other},condition="held=0.1"}}') == 0
    text = service.get("/metrics").text
    assert 'slimq_variant_robust{policy="tiny_frames"' not in text, "not played under conditions"
    assert low + '{policy="tiny_frames"' not in text
    assert 'slimq_variant_robust{policy="tiny_frames",variant="other"' not in text


def test_conditions_that_decide_nothing_and_further_ones_have_no_metric(
    tiny_repository: Path, start: Any
) -> None:
    further = Condition(name='own.py:fog"', strength=1)
    for variant in ("fp32", "other"):
        publish_report(tiny_repository, variant, {"sticky": 90.0}, further=(further,))
    service = start()
    known = service.app.catalogue.evidence
    service.until(lambda: known.find("tiny", "other").robustness is not None)
    assert [r.condition for r in known.find("tiny", "other").robustness.results][-1] == further
    text = service.get("/metrics").text
    assert text.count("slimq_variant_condition_difference_low{") == 2 * 4
    assert "sticky" not in text
    assert service.metric('slimq_variant_robust{policy="tiny",variant="other"}') == 1
