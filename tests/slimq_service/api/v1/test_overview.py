from __future__ import annotations

import asyncio
import hashlib
import json
import shlex
import shutil
from typing import Any

import pytest

from builders import make_mlp, make_policy_manifest
from condition_reports import publish_report
from parts import build_parts_repository
from slimq.core.environment import EnvironmentSpec
from slimq.core.report import (
    EvaluationProtocol,
    EvaluationReport,
    Fidelity,
    Interval,
    LatencyMeasurement,
    LatencyReport,
)
from slimq.core.repository import Repository
from slimq.evaluation.protocol import EvaluationSettings
from slimq.evaluation.runner import evaluate_policy
from slimq_service.api.v1.overview import Overview, example, make_overview
from slimq_service.metrics.registry import Registry
from slimq_service.metrics.service import Metrics
from slimq_service.variants.catalogue import Catalogue


def make_report(policy: str, variant: str, sha256: str, baseline: str) -> EvaluationReport:
    protocol = EvaluationProtocol(
        environment=EnvironmentSpec(id="CartPole-v1"),
        epsilon=0.01,
        episodes=2,
        seed_range="held-out",
        first_seed=3_000_000,
        resamples=100,
        fidelity_states=10,
        fidelity_episodes=1,
    )
    measurement = LatencyMeasurement(
        mode="interleaved",
        batch=1,
        iterations=10,
        p50_us=1234.0,
        processes_p50_us=[1234.0],
        p95_us=1300.0,
        p99_us=1400.0,
        processor_us=1200.0,
    )
    return EvaluationReport(
        policy=policy,
        variant=variant,
        model_sha256=sha256,
        baseline_variant="fp32",
        baseline_sha256=baseline,
        protocol=protocol,
        seeds=protocol.seeds,
        returns=[20.5, 21.0],
        lengths=[5, 6],
        trajectories=["0" * 64, "1" * 64],
        distinct_trajectories=2,
        mean=20.75,
        interval=Interval(low=20.5, high=21.0),
        iqm=20.75,
        iqm_interval=Interval(low=20.5, high=21.0),
        fidelity=Fidelity(
            states=10,
            agreement=0.9871,
            near_ties=0,
            agreement_without_ties=0.9871,
            regret=0.0,
            q_error_mean=0.0,
            q_error_max=0.0,
        ),
        bytes=100,
        latency=LatencyReport(
            run_id="run",
            processor="test",
            threads=1,
            processes=1,
            onnxruntime="1",
            variants=["fp32"],
            measurements=[measurement],
        ),
        versions={},
    )


def attach(repositories: Any, policy: str, variant: str, stale: bool = False) -> None:
    home = repositories.folder(policy, variant)
    document = json.loads((home / "variant.json").read_text())
    sha256 = "0" * 64 if stale else document["model"]["sha256"]
    baseline = hashlib.sha256(repositories.model(policy, "fp32").read_bytes()).hexdigest()
    content = make_report(policy, variant, sha256, baseline).model_dump_json().encode()
    digest = hashlib.sha256(content).hexdigest()
    name = f"report-{digest[:12]}.json"
    (home / name).write_bytes(content)
    document["report"] = {"path": name, "bytes": len(content), "sha256": digest}
    (home / "new").write_text(json.dumps(document))
    (home / "new").replace(home / "variant.json")


def overview_of(service: Any) -> dict[str, Any]:
    return dict(service.get("/", headers={"accept": "application/json"}).json())


def test_results_come_with_what_they_were_measured_on(service: Any, repositories: Any) -> None:
    attach(repositories, "tiny", "other")
    (policy, frames) = overview_of(service)["policies"]
    row = policy["variants"][1]
    measured = {"episodes": 2, "latency_p50_us": 1234.0, "latency_p99_us": 1400.0}
    assert {name: row[name] for name in measured} == measured
    assert (row["processor"], row["threads"]) == ("test", 1)
    assert row["agreement"] == 0.9871
    assert (policy["baseline_variant"], policy["random_return"]) == ("fp32", 22.0)
    assert policy["drawing"]["kind"] == "cartpole"
    assert frames["drawing"]["kind"] == "frames"


def test_without_a_program_that_plays_there_is_none(service: Any) -> None:
    assert overview_of(service)["plays"] is False


def test_the_same_content_is_available_as_json(service: Any, repositories: Any) -> None:
    attach(repositories, "tiny", "other")
    answer = service.get("/", headers={"accept": "application/json"})
    policies = answer.json()["policies"]
    assert [policy["name"] for policy in policies] == ["tiny", "tiny_frames"]
    row = policies[0]["variants"][1]
    assert (row["mean_return"], row["interval"]) == (20.75, [20.5, 21.0])
    assert row["latency_p50_us"] == 1234.0
    assert row["bytes_ratio"] == 1.0
    assert service.get("/v1/policies/tiny/variants/other/report").json()["mean"] == 20.75


def test_conditions_under_which_a_variant_fails_are_named(tiny_repository: Any, start: Any) -> None:
    publish_report(tiny_repository, "fp32", {})
    publish_report(tiny_repository, "other", {"noise": 60.0, "delayed": 60.0})
    publish_report(tiny_repository, "fp32", policy="tiny_frames")
    service = start()
    evidence = service.app.catalogue.evidence
    service.until(lambda: evidence.find("tiny_frames", "fp32").robustness is not None)
    tables = service.get("/", headers={"accept": "application/json"}).json()["policies"]
    rows = [row for table in tables for row in table["variants"]]
    assert [row["robust"] for row in rows] == [True, False, None, None]
    assert [row["fails_under"] for row in rows] == [[], ["noise=0.01", "delayed=1"], [], []]


def test_a_report_of_another_model_is_not_shown(service: Any, repositories: Any) -> None:
    attach(repositories, "tiny", "other", stale=True)
    answer = service.get("/", headers={"accept": "application/json"})
    assert answer.json()["policies"][0]["variants"][1]["mean_return"] is None


def test_agreement_with_an_earlier_baseline_is_not_shown(service: Any, repositories: Any) -> None:
    attach(repositories, "tiny", "other")

    def other() -> Any:
        answer = service.get("/", headers={"accept": "application/json"})
        return answer.json()["policies"][0]["variants"][1]

    assert (other()["mean_return"], other()["agreement"]) == (20.75, 0.9871)
    old = repositories.model("tiny", "fp32")
    repositories.publish("tiny", "fp32", make_mlp(9))
    assert (other()["mean_return"], other()["agreement"]) == (20.75, None)
    old.unlink()
    shutil.rmtree(repositories.folder("tiny", "fp32"))
    answer = service.get("/", headers={"accept": "application/json"})
    (row,) = answer.json()["policies"][0]["variants"]
    assert (row["name"], row["agreement"], row["bytes_ratio"]) == ("other", None, None)


def test_a_variant_may_disappear_while_the_page_is_built(
    repositories: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def build() -> Overview:
        catalogue = Catalogue(Repository(repositories.root), Metrics(Registry()), retry_seconds=0.0)
        await catalogue.refresh()
        read = catalogue.report

        async def read_late(policy: str, variant: str) -> EvaluationReport | None:
            shutil.rmtree(repositories.folder("tiny", "other"), ignore_errors=True)
            await catalogue.refresh()
            return await read(policy, variant)

        monkeypatch.setattr(catalogue, "report", read_late)
        overview = await make_overview(catalogue, "http://test")
        await catalogue.close()
        return overview

    rows = asyncio.run(build()).policies[0].variants
    assert [row.name for row in rows] == ["fp32", "other"], "one look throughout"


def test_a_variant_of_an_earlier_network_is_marked(service: Any, repositories: Any) -> None:
    for path, entries in (
        ("policy.json", {"checkpoint": {"path": "c", "bytes": 1, "sha256": "1" * 64}}),
        ("variants/other/variant.json", {"parent": "0" * 64}),
    ):
        home = repositories.root / "tiny" / path
        (home.parent / "new").write_text(json.dumps(json.loads(home.read_text()) | entries))
        (home.parent / "new").replace(home)
    answer = service.get("/", headers={"accept": "application/json"})
    rows = answer.json()["policies"][0]["variants"]
    assert {row["name"]: row["stale"] for row in rows} == {"fp32": False, "other": True}


def test_broken_variants_are_shown_with_their_problem(service: Any, repositories: Any) -> None:
    repositories.publish("tiny", "broken", b"onnx")
    repositories.model("tiny", "broken").unlink()
    rows = overview_of(service)["policies"][0]["variants"]
    assert [row["name"] for row in rows if row["problem"]] == ["broken"]


def test_the_curl_line_of_the_page_works(service: Any) -> None:
    listing = service.get("/", headers={"accept": "application/json"}).json()["policies"]
    words = shlex.split(listing[0]["try_it"])
    body = words[words.index("-d") + 1]
    headers = dict([words[words.index("-H") + 1].split(": ")])
    answer = service.request("POST", words[2], content=body, headers=headers)
    assert answer.status_code == 200
    assert "head -c 28224 /dev/zero | curl" in listing[1]["try_it"]


def test_a_quote_in_the_host_cannot_leave_the_curl_line(service: Any) -> None:
    line = example(make_policy_manifest("tiny"), "http://test")
    assert line.startswith("curl -s 'http://test/v1/policies/tiny/act'")
    answer = service.get("/", headers={"host": "a'$(date)<b>", "accept": "application/json"})
    assert answer.status_code == 200
    assert "a'$" not in answer.text


def test_a_policy_without_an_environment_is_not_proven_in_play(start: Any, tmp_path: Any) -> None:
    root = build_parts_repository(tmp_path / "parts")
    evaluated = evaluate_policy(
        Repository(root), "maze", settings=EvaluationSettings(latency="skip")
    )
    service = start(root)
    overview = service.get("/", headers={"accept": "application/json"}).json()
    table = next(table for table in overview["policies"] if table["name"] == "maze")
    assert (table["environment"], table["proven_in_play"], table["problem"]) == (None, False, None)
    row = next(row for row in table["variants"] if row["name"] == "other")
    fidelity = evaluated.reports["other"].fidelity
    assert fidelity is not None
    assert (row["mean_return"], row["interval"], row["problem"]) == (None, None, None)
    assert row["agreement"] == fidelity.agreement
    report = service.get("/v1/policies/maze/variants/other/report").json()
    assert report["returns"] is None
