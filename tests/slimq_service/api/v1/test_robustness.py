"""The evidence of variants over HTTP: a real server, and reports of real play."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from condition_reports import publish_report
from places import POLICIES
from slimq.core.conditions.catalogue import standard_conditions
from slimq.core.repository import Repository
from slimq.evaluation.comparison import compare_variants
from slimq.evaluation.protocol import EvaluationSettings
from slimq.evaluation.runner import evaluate_policy
from slimq_service.variants.evidence import NOT_YET
from waiting import until

VARIANTS = ("fp32", "micro")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Two variants of CartPole, played for 5 episodes undisturbed and 20 under each condition."""
    folder = tmp_path_factory.mktemp("played")
    shutil.copytree(POLICIES / "cartpole", folder / "policies" / "cartpole")
    for variant in (folder / "policies" / "cartpole" / "variants").iterdir():
        if variant.name not in VARIANTS:
            shutil.rmtree(variant)
    repository = Repository(folder / "policies")
    settings = EvaluationSettings(
        episodes=5,
        condition_episodes=20,
        environments=5,
        states=50,
        state_episodes=1,
        latency="skip",
        force=True,
        work=folder / "work",
        conditions=standard_conditions(repository.policy("cartpole").observation),
    )
    evaluate_policy(repository, "cartpole", settings=settings)
    return repository


@pytest.fixture(scope="module")
def url(played: Repository, process_class: Any, tmp_path_factory: Any) -> Iterator[str]:
    """A server of these, once it has compared them."""
    process = process_class(played.root, tmp_path_factory.mktemp("log") / "log")
    until(lambda: robustness(process.url, "micro")["problem"] != NOT_YET, 30, every=0.05)
    yield process.url
    process.close()
    assert "Traceback" not in process.log.read_text()


def robustness(url: str, variant: str) -> Any:
    answer = httpx.get(f"{url}/v1/policies/cartpole/variants/{variant}/robustness", timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_judgement_by_condition_is_that_of_compare(url: str, played: Repository) -> None:
    rows = {row.variant: row for row in compare_variants(played, "cartpole").rows}
    for variant in VARIANTS:
        expected, found = rows[variant].robustness, robustness(url, variant)
        assert expected is not None
        assert len(expected.results) == 5
        assert (found["robust"], found["missing"]) == (expected.robust, [])
        assert found["undisturbed"]["low"] == rows[variant].difference.low  # type: ignore[union-attr]
        for one, result in zip(found["conditions"], expected.results, strict=True):
            assert result.difference is not None
            assert one["label"] == result.condition.label
            assert one["standard"] is True
            assert one["effect"] == result.condition.effect
            assert (one["mean"], one["full_mean"]) == (result.mean, result.full_mean)
            assert one["interval"] == [result.interval.low, result.interval.high]
            assert one["full_loss"] == result.full_loss
            assert one["difference"]["low"] == result.difference.low
            assert one["difference"]["margin"] == result.difference.margin
            assert (one["decides"], one["non_inferior"]) == (result.decides, result.non_inferior)
    assert robustness(url, "fp32")["robust"] is True


def test_policies_and_variants_carry_the_judgement(url: str) -> None:
    found = {variant: robustness(url, variant) for variant in VARIANTS}
    listing = httpx.get(url + "/v1/policies/cartpole/variants").json()["variants"]
    assert {one["name"]: one["robustness"] for one in listing} == found
    (policy,) = httpx.get(url + "/v1/policies").json()["policies"]
    assert policy["robust"] == [name for name in VARIANTS if found[name]["robust"]]


def test_the_report_itself_is_unchanged_and_has_the_conditions(
    url: str, played: Repository
) -> None:
    answer = httpx.get(url + "/v1/policies/cartpole/variants/micro/report").json()
    report = played.report("cartpole", "micro")
    assert report is not None
    assert answer == report.model_dump(mode="json")
    assert len(answer["conditions"]) == 5


def test_the_page_and_the_metrics_agree_with_it(url: str) -> None:
    found = {variant: robustness(url, variant) for variant in VARIANTS}
    overview = httpx.get(url + "/", headers={"accept": "application/json"}).json()
    rows = {row["name"]: row for row in overview["policies"][0]["variants"]}
    text = httpx.get(url + "/metrics").text
    for variant in VARIANTS:
        assert rows[variant]["robust"] == found[variant]["robust"]
        assert rows[variant]["fails_under"] == found[variant]["fails_under"]
        value = float(found[variant]["robust"])
        line = f'slimq_variant_robust{{policy="cartpole",variant="{variant}"}} {value!r}'
        assert line in text.splitlines()


def test_what_was_never_played_is_refused_with_what_was(tiny_repository: Path, start: Any) -> None:
    publish_report(tiny_repository, "fp32", {})
    service = start()
    path = "/v1/policies/tiny/variants/{}/robustness"
    answer = service.get(path.format("other"))
    assert answer.status_code == 404
    assert answer.json()["available"] == ["fp32"]
    assert service.get(path.format("gone")).json()["available"] == ["fp32", "other"]
    listing = service.get("/v1/policies/tiny/variants").json()["variants"]
    assert listing[1]["robustness"] is None


def test_what_fails_is_named_undisturbed_included(tiny_repository: Path, start: Any) -> None:
    publish_report(tiny_repository, "fp32", {})
    publish_report(tiny_repository, "other", {"delayed": 40.0}, returns=(90.0, 110.0) * 10)
    service = start()
    answer: dict[str, Any] = {"problem": NOT_YET}

    def is_judged() -> bool:
        answer.update(service.get("/v1/policies/tiny/variants/other/robustness").json())
        return answer["problem"] != NOT_YET

    service.until(is_judged)
    failing = ["undisturbed", "noise=0.01", "bias=0.01", "held=0.1", "sticky=0.25", "delayed=1"]
    assert (answer["robust"], answer["fails_under"]) == (False, failing)
    overview = service.get("/", headers={"accept": "application/json"}).json()
    assert overview["policies"][0]["variants"][1]["fails_under"] == failing
