from __future__ import annotations

from typing import Any

import pytest

ERRORS = [
    ("GET", "/nothing/here", 404, "no-such-path"),
    ("GET", "/v1/policies/", 404, "no-such-path"),
    ("POST", "/v1/policies/tiny/act/", 404, "no-such-path"),
    ("GET", "/v1/policies/tiny/act", 405, "method-not-allowed"),
    ("DELETE", "/v1/policies", 405, "method-not-allowed"),
    ("BREW", "/healthz", 405, "method-not-allowed"),
    ("GET", "/v1/policies/pongg", 404, "not-found"),
    ("GET", "/v1/policies/pongg/variants", 404, "not-found"),
    ("GET", "/v1/policies/tiny/variants/int8", 404, "not-found"),
    ("GET", "/v1/policies/tiny/variants/int8/report", 404, "not-found"),
    ("GET", "/v1/policies/tiny/variants/fp32/report", 404, "not-found"),
    ("GET", "/v1/policies/%00%ff", 404, "not-found"),
    ("GET", "/v1/policies/" + "y" * 9000, 404, "not-found"),
]


@pytest.mark.parametrize(("method", "path", "status", "code"), ERRORS)
def test_every_error_is_a_problem(
    service: Any, method: str, path: str, status: int, code: str
) -> None:
    answer = service.request(method, path)
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code == problem["status"] == status
    assert problem["code"] == code
    assert service.metric(f'slimq_http_errors_total{{code="{code}"}}') == 1
    text = service.get("/metrics").text
    counted = [row for row in text.splitlines() if row.startswith("slimq_errors_total")]
    assert counted
    assert all(row.endswith(" 0.0") for row in counted), "no act request was made"
    assert {"type", "title", "detail", "field", "received"} <= set(problem)
    assert len(answer.content) < 4000


def test_a_method_that_is_not_allowed_names_those_that_are(service: Any) -> None:
    answer = service.get("/v1/policies/tiny/act")
    assert answer.headers["allow"] == "POST"
    assert answer.json()["limit"] == "POST"


def test_an_internal_error_outside_act_is_a_problem_too(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("slimq_service.api.v1.policies.list_policies", fail)
    answer = service.get("/v1/policies")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "secret" not in answer.text
