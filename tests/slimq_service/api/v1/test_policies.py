from __future__ import annotations

from pathlib import Path
from typing import Any

from parts import SPECS, build_parts_repository
from slimq.core.manifest import PolicyManifest, VariantManifest
from slimq.core.repository import Repository


def test_policies_are_listed_with_their_variants(service: Any) -> None:
    found = service.get("/v1/policies").json()["policies"]
    assert [policy["name"] for policy in found] == ["tiny", "tiny_frames"]
    assert found[0]["variants"] == ["fp32", "other"]
    assert found[0]["default_variant"] == "fp32"
    assert found[0]["environment"] == "CartPole-v1"
    assert found[0]["proven_in_play"] is True


def test_policies_without_an_environment_are_listed_as_not_proven(
    start: Any, tmp_path: Path
) -> None:
    service = start(build_parts_repository(tmp_path / "parts"))
    found = service.get("/v1/policies").json()["policies"]
    assert [policy["name"] for policy in found] == sorted(SPECS)
    for policy in found:
        assert (policy["environment"], policy["proven_in_play"]) == (None, False)
        manifest = PolicyManifest.model_validate(
            service.get(f"/v1/policies/{policy['name']}").json()
        )
        assert manifest.environment is None


def test_manifests_are_returned_unchanged(service: Any, tiny_repository: Any) -> None:
    repository = Repository(tiny_repository)
    policy = PolicyManifest.model_validate_json(service.get("/v1/policies/tiny").content)
    assert policy == repository.policy("tiny")
    answer = service.get("/v1/policies/tiny/variants/other")
    assert VariantManifest.model_validate_json(answer.content) == repository.variant(
        "tiny", "other"
    )


def test_variants_are_listed_with_manifest_or_problem(service: Any, repositories: Any) -> None:
    repositories.corrupt("tiny", "other")
    (repositories.folder("tiny_frames", "other") / "variant.json").write_text("{")
    repositories.publish("tiny", "broken", b"onnx")
    repositories.model("tiny", "broken").unlink()
    found = service.get("/v1/policies/tiny/variants").json()["variants"]
    assert [variant["name"] for variant in found] == ["broken", "fp32", "other"]
    assert found[0]["problem"]
    assert found[1]["manifest"]["precision"] == "fp32"
    assert found[1]["problem"] is None
    frames = service.get("/v1/policies/tiny_frames/variants").json()["variants"]
    assert frames[1]["manifest"] is None
    assert frames[1]["problem"]


def test_a_missing_report_lists_the_variants_that_have_one(service: Any) -> None:
    problem = service.get("/v1/policies/tiny/variants/fp32/report").json()
    assert problem["available"] == []
    assert "report" in problem["detail"]


def test_an_unreadable_policy_is_neither_proven_nor_unproven(
    start: Any, tiny_repository: Path
) -> None:
    (tiny_repository / "tiny" / "policy.json").write_text("{")
    service = start()
    found = service.get("/v1/policies").json()["policies"]
    assert found[0]["problem"]
    assert (found[0]["environment"], found[0]["proven_in_play"]) == (None, None)
    overview = service.get("/", headers={"accept": "application/json"}).json()
    assert overview["policies"][0]["proven_in_play"] is None
