from __future__ import annotations

from typing import Any

import numpy as np
import pytest

PATH = "/v1/policies/tiny/compare"
OBSERVATIONS = [[0.1, -0.2, 0.3, 0.4], [1, 2, 3, 4], [-1, 0, 1, 0]]
RAW = "application/octet-stream"


def compare(service: Any, query: str = "", **options: Any) -> Any:
    options = options or {"json": {"observations": OBSERVATIONS}}
    return service.request("POST", PATH + query, **options)


def test_all_variants_are_compared_with_the_baseline(service: Any) -> None:
    answer = compare(service)
    assert answer.status_code == 200
    document = answer.json()
    assert (document["policy"], document["reference"], document["failed"]) == ("tiny", "fp32", {})
    fp32, other = document["variants"]
    assert (fp32["variant"], other["variant"]) == ("fp32", "other")
    for row in (fp32, other):
        body = {"observations": OBSERVATIONS, "variant": row["variant"]}
        alone = service.request("POST", "/v1/policies/tiny/act", json=body).json()
        assert {key: row[key] for key in ("sha256", "actions", "q_values")} == {
            key: alone[key] for key in ("sha256", "actions", "q_values")
        }
        assert row["seconds"]["inference"] > 0
    assert (fp32["agreement"], fp32["regret"], fp32["max_q_difference"]) == (1, 0, 0)
    ours, full = np.array(other["q_values"]), np.array(fp32["q_values"])
    chosen = ours.argmax(axis=1)
    lost = full.max(axis=1) - full[np.arange(3), chosen]
    assert other["agreement"] == pytest.approx((chosen == full.argmax(axis=1)).mean())
    assert other["regret"] == pytest.approx(lost.mean(), rel=1e-6)
    assert other["mean_q_difference"] == pytest.approx(np.abs(ours - full).mean(), rel=1e-6)
    assert other["max_q_difference"] == pytest.approx(np.abs(ours - full).max(), rel=1e-6)


def test_another_reference_and_raw_bytes(service: Any) -> None:
    body = np.array(OBSERVATIONS, np.float32).tobytes()
    answer = compare(
        service, "?variants=fp32&reference=other", content=body, headers={"content-type": RAW}
    )
    document = answer.json()
    assert document["reference"] == "other"
    assert [row["variant"] for row in document["variants"]] == ["other", "fp32"]


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("?variants=fp32,none", 404, "unknown variant 'none'"),
        ("?reference=none", 404, "unknown variant 'none'"),
        ("?variant=fp32", 422, "did you mean 'variants'"),
        ("?variants=", 422, "comma-separated names"),
        ("?variants=fp32,,other", 422, "comma-separated names"),
        ("?reference=", 422, "comma-separated names"),
        ("?reference=fp32&reference=other", 422, "one value"),
    ],
)
def test_errors_in_the_query_name_the_parameter(
    service: Any, query: str, status: int, words: str
) -> None:
    answer = compare(service, query)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]


def test_invalid_bodies_are_refused_like_those_of_act(service: Any) -> None:
    for body, status in (
        ({"observations": [[1, 2]]}, 422),
        ({"observations": OBSERVATIONS, "variant": "fp32"}, 400),
        ({}, 422),
        ({"observations": [[0, 0, 0, 1e39]]}, 422),
    ):
        assert compare(service, json=body).status_code == status
    assert compare(service, content=b"{", headers={"content-type": "text/plain"}).status_code == 415
    path = "/v1/policies/none/compare"
    assert service.request("POST", path, json={"observations": OBSERVATIONS}).status_code == 404
    assert service.request("GET", PATH).status_code == 405


def test_a_broken_variant_is_named_and_the_others_are_compared(
    service: Any, repositories: Any
) -> None:
    repositories.publish("tiny", "other", b"no model at all")
    document = compare(service).json()
    assert [row["variant"] for row in document["variants"]] == ["fp32"]
    assert document["failed"]["other"]["code"] == "repository"
    answer = compare(service, "?reference=other")
    assert (answer.status_code, answer.json()["code"]) == (503, "repository")


def test_comparisons_do_not_count_as_requests_for_actions(service: Any) -> None:
    compare(service)
    compare(service, "?variants=none")
    labels = '{policy="tiny",variant="fp32"}'
    assert service.metric("slimq_requests_total" + labels) == 0
    assert service.metric("slimq_inference_seconds_count" + labels) == 0
    assert service.metric('slimq_requests_total{policy="unknown",variant="unknown"}') == 0
    assert service.metric('slimq_http_errors_total{code="not-found"}') == 1
    assert service.metric("slimq_requests_in_flight") == 0


def test_the_response_matches_its_schema(service: Any) -> None:
    documented = service.get("/openapi.json").json()["components"]["schemas"]["CompareAnswer"]
    document = compare(service).json()
    assert set(document) == set(documented["required"])
    for row in document["variants"]:
        assert set(row) == {"variant", *documented["properties"]["variants"]["items"]["properties"]}
