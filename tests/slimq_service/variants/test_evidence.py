from __future__ import annotations

import hashlib
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import slimq.core.evidence as core_evidence
from condition_reports import make_conditions, publish_report
from slimq.core.evidence import Judgement
from slimq.core.manifest import Routing
from slimq.core.publish import Publisher
from slimq.core.report import EvaluationReport
from slimq.core.repository import Repository
from slimq.core.robustness import Robustness, judge_robustness
from slimq_service.variants.evidence import NOT_YET

NOISE = "noise=0.01"


def found(service: Any, variant: str = "other", policy: str = "tiny") -> Judgement:
    """What is known of a variant once it is judged."""
    service.run(service.app.catalogue.refresh())
    evidence = service.app.catalogue.evidence
    service.until(lambda: (evidence.find(policy, variant) or Judgement()).problem != NOT_YET)
    judgement = evidence.find(policy, variant)
    assert judgement is not None
    return judgement


def rewrite_report(root: Path, variant: str, change: Any) -> None:
    """Changes a report as a JSON document, hashes included."""
    repository = Repository(root)
    manifest = repository.variant("tiny", variant)
    assert manifest.report is not None
    home = root / "tiny" / "variants" / variant
    document = json.loads((home / manifest.report.path).read_text())
    change(document)
    content = json.dumps(document).encode()
    entry = {"path": "report-changed.json", "bytes": len(content), "sha256": sha256(content)}
    (home / "report-changed.json").write_bytes(content)
    changed = manifest.model_dump(mode="json") | {"report": entry}
    (home / "new").write_text(json.dumps(changed))
    (home / "new").replace(home / "variant.json")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The variants judged so far, in order, by the real function."""
    names: list[str] = []

    def counted(variant: EvaluationReport, *arguments: Any) -> Robustness:
        assert threading.current_thread().name.startswith("slimq-repository")
        names.append(variant.variant)
        return judge_robustness(variant, *arguments)

    monkeypatch.setattr(core_evidence, "judge_robustness", counted)
    return names


def test_a_variant_is_judged_with_the_baselines_report(tiny_repository: Path, start: Any) -> None:
    publish_report(tiny_repository, "fp32", {"noise": 5.0})
    publish_report(tiny_repository, "other", {"noise": 60.0, "held": 1.0})
    service = start()
    judgement = found(service)
    robustness = judgement.robustness
    assert robustness is not None
    assert robustness.robust is False
    assert [result.condition.label for result in robustness.failed] == [NOISE]
    assert judgement.undisturbed is not None
    assert judgement.undisturbed.non_inferior
    of_itself = found(service, "fp32").robustness
    assert of_itself is not None
    assert of_itself.robust is True


def test_reports_are_compared_once_in_the_repositorys_thread(
    tiny_repository: Path, start: Any, judged: list[str]
) -> None:
    for variant in ("fp32", "other"):
        publish_report(tiny_repository, variant, {})
    service = start()
    assert found(service).problem is None
    for _ in range(3):
        service.get("/v1/policies/tiny/variants/other/robustness")
        service.get("/metrics")
        service.get("/")
    Publisher(Repository(tiny_repository)).route("tiny", Routing(weights={"fp32": 1}))
    assert found(service).problem is None
    assert judged == ["fp32", "other"]
    publish_report(tiny_repository, "other", {"sticky": 60.0})
    assert found(service).robustness.failed  # type: ignore[union-attr]
    assert judged == ["fp32", "other", "other"]
    publish_report(tiny_repository, "fp32", {"sticky": 60.0})
    service.until(lambda: not found(service).robustness.failed)  # type: ignore[union-attr]
    assert judged == ["fp32", "other", "other", "fp32", "other"]


def test_what_was_never_played_has_no_judgement(tiny_repository: Path, start: Any) -> None:
    service = start()
    evidence = service.app.catalogue.evidence
    assert evidence.find("tiny", "other") is None
    assert evidence.find("tiny", "gone") is None
    assert evidence.find("gone", "other") is None


def test_a_judgement_of_an_earlier_model_is_not_that_of_the_next(
    tiny_repository: Path, repositories: Any, start: Any
) -> None:
    for variant in ("fp32", "other"):
        publish_report(tiny_repository, variant, {})
    service = start()
    assert found(service).robustness is not None
    repositories.publish("tiny", "other", repositories.model("tiny", "fp32").read_bytes())
    service.run(service.app.catalogue.refresh())
    assert service.app.catalogue.evidence.find("tiny", "other") is None


def test_without_a_report_of_the_baseline_nothing_is_judged(
    tiny_repository: Path, start: Any
) -> None:
    publish_report(tiny_repository, "other", {})
    judgement = found(start())
    assert judgement.robustness is None
    assert judgement.problem == ("policy tiny: expected an evaluated baseline, fp32, received none")


def test_a_baseline_without_conditions_leaves_robustness_open(
    tiny_repository: Path, start: Any
) -> None:
    publish_report(tiny_repository, "fp32")
    publish_report(tiny_repository, "other", {})
    robustness = found(start()).robustness
    assert robustness is not None
    assert robustness.robust is None
    assert len(robustness.missing) == 5
    assert robustness.results[0].note == f"fp32 was not played under {NOISE}"


def test_half_the_conditions_leave_robustness_open_unless_one_fails(
    tiny_repository: Path, start: Any
) -> None:
    publish_report(tiny_repository, "fp32", {})
    observation = Repository(tiny_repository).policy("tiny").observation
    returns = (100.0, 120.0, 110.0, 130.0) * 5
    half = make_conditions(observation, returns, {})[:2]
    publish_report(tiny_repository, "other", conditions=half)
    service = start()
    robustness = found(service).robustness
    assert robustness is not None
    assert (robustness.robust, len(robustness.missing)) == (None, 3)
    half = make_conditions(observation, returns, {"noise": 50.0})[:2]
    publish_report(tiny_repository, "other", conditions=half)
    robustness = found(service).robustness
    assert robustness is not None
    assert (robustness.robust, len(robustness.missing)) == (False, 3)


@pytest.mark.parametrize("minor", [0, 99])
def test_reports_of_other_minor_versions_are_judged_by_what_is_known_of_them(
    minor: int, tiny_repository: Path, start: Any
) -> None:
    for variant in ("fp32", "other"):
        publish_report(tiny_repository, variant, {})

    def change(document: dict[str, Any]) -> None:
        document["schema_minor"] = minor
        if minor:
            document["conditions"][0]["weather"] = "fog"
        else:
            del document["conditions"]

    rewrite_report(tiny_repository, "other", change)
    service = start()
    robustness = found(service).robustness
    assert robustness is not None
    assert robustness.robust is (True if minor else None)
    assert service.act("tiny", [[0.0] * 4], params={"variant": "other"}).status_code == 200


def of_a_few_episodes(document: dict[str, Any]) -> None:
    for name in ("seeds", "returns", "lengths", "trajectories"):
        document[name] = document[name][:3]
    document["protocol"]["episodes"] = 3


def not_a_number(document: dict[str, Any]) -> None:
    document["conditions"][1]["returns"][2] = float("nan")


def infinite(document: dict[str, Any]) -> None:
    document["mean"] = float("inf")


def of_too_many_resamples(document: dict[str, Any]) -> None:
    document["protocol"]["resamples"] = 10**12


def of_an_unknown_key(document: dict[str, Any]) -> None:
    document["conditions"][0]["weather"] = "fog"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (of_a_few_episodes, "report of other: expected the protocol and seeds of fp32's report"),
        (not_a_number, "conditions.1.returns.2: Input should be a finite number"),
        (infinite, "mean: Input should be a finite number"),
        (of_too_many_resamples, "received 120,000,000,000,000"),
        (of_an_unknown_key, "conditions.0.weather: unknown key"),
    ],
)
def test_a_bad_report_costs_a_variant_its_judgement_and_nothing_else(
    change: Any, problem: str, tiny_repository: Path, start: Any
) -> None:
    for variant in ("fp32", "other"):
        publish_report(tiny_repository, variant, {})
    rewrite_report(tiny_repository, "other", change)
    if change is of_too_many_resamples:
        rewrite_report(tiny_repository, "fp32", change)
    service = start()
    judgement = found(service)
    assert judgement.robustness is None
    assert problem in (judgement.problem or "")
    for variant in ("fp32", "other"):
        assert service.act("tiny", [[0.0] * 4], params={"variant": variant}).status_code == 200
    listing = service.get("/v1/policies/tiny/variants").json()["variants"]
    assert listing[1]["problem"] is None
    assert problem in listing[1]["robustness"]["problem"]
    assert service.get("/", headers={"accept": "application/json"}).status_code == 200
    assert service.get("/metrics").status_code == 200


def test_a_broken_report_is_read_again_until_it_is_mended(
    tiny_repository: Path, start: Any
) -> None:
    for variant in ("fp32", "other"):
        publish_report(tiny_repository, variant, {})
    entry = Repository(tiny_repository).variant("tiny", "other").report
    assert entry is not None
    path = tiny_repository / "tiny" / "variants" / "other" / entry.path
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    service = start(retry_seconds=0.0)
    assert "its manifest says" in (found(service).problem or "")
    path.write_bytes(good)
    service.until(lambda: found(service).robustness is not None)


def test_an_unexpected_error_does_not_keep_others_from_being_judged(
    tiny_repository: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variant in ("fp32", "other"):
        publish_report(tiny_repository, variant, {})

    def failing(variant: EvaluationReport, *arguments: Any) -> Robustness:
        if variant.variant == "fp32":
            raise OverflowError("too large")
        return judge_robustness(variant, *arguments)

    monkeypatch.setattr(core_evidence, "judge_robustness", failing)
    service = start()
    assert found(service).robustness is not None
    assert found(service, "fp32").problem == "cannot be compared; the log has the reason"


def test_requests_are_answered_while_reports_are_compared(
    tiny_repository: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variant in ("fp32", "other"):
        publish_report(tiny_repository, variant, {})
    begun, go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Robustness:
        begun.set()
        assert go_on.wait(30)
        return judge_robustness(*arguments)

    service = start()
    assert service.act("tiny", [[0.0] * 4]).status_code == 200
    assert found(service).robustness is not None
    monkeypatch.setattr(core_evidence, "judge_robustness", slow)
    publish_report(tiny_repository, "fp32", {"noise": 1.0})
    service.run(service.app.catalogue.refresh())
    service.until(begun.is_set)
    before = time.monotonic()
    assert service.act("tiny", [[0.0] * 4]).status_code == 200
    assert 'slimq_variant_info{policy="tiny"' in service.get("/metrics").text
    assert time.monotonic() - before < 20
    assert service.app.catalogue.evidence.find("tiny", "other").problem == NOT_YET
    go_on.set()
    assert found(service).robustness is not None


def test_a_difference_that_is_infinite_never_reaches_json(
    tiny_repository: Path, start: Any
) -> None:
    for variant, value in (("fp32", -1.7e308), ("other", 1.7e308)):
        publish_report(tiny_repository, variant, {})

        def change(document: dict[str, Any], value: float = value) -> None:
            document["conditions"][0]["returns"] = [value] * 20

        rewrite_report(tiny_repository, variant, change)
    service = start()
    assert found(service).problem == (
        "report of other: expected returns with a finite difference from the baseline's, "
        "received an infinite one"
    )
    assert service.get("/v1/policies/tiny/variants").status_code == 200
