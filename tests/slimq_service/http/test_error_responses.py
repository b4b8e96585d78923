from __future__ import annotations

from typing import Any

import pytest

ERRORS = [
    ("GET", "/v2/", 404),
    ("GET", "/v2/nothing", 404),
    ("GET", "/v2/models", 404),
    ("GET", "/v2/models/tiny/", 404),
    ("GET", "/v2/models/none", 404),
    ("GET", "/v2/models/" + "y" * 9000, 404),
    ("GET", "/v2/models/..%2F..%2Fetc%2Fpasswd", 404),
    ("GET", "/v2/models/%2e%2e/ready", 404),
    ("GET", "/v2/models/tiny/versions/..%2Ffp32/config", 404),
    ("GET", "/v2/models/tiny/infer", 405),
    ("PUT", "/v2/models/tiny/infer", 405),
    ("POST", "/v2", 405),
    ("DELETE", "/v2/models/tiny", 405),
    ("BREW", "/v2/health/live", 405),
]


@pytest.mark.parametrize(("method", "path", "status"), ERRORS)
def test_every_error_of_the_protocol_has_its_own_shape(
    service: Any, method: str, path: str, status: int
) -> None:
    answer = service.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"]
    assert len(answer.content) < 4000
    code = "method-not-allowed" if status == 405 else None
    if code:
        assert answer.headers["allow"]
        assert service.metric(f'slimq_http_errors_total{{code="{code}"}}') == 1


@pytest.mark.parametrize("path", ["/v2x", "/v1/v2", "/nothing"])
def test_other_paths_keep_their_problem_documents(service: Any, path: str) -> None:
    answer = service.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_mistake_of_ours_has_that_shape_too(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("slimq_service.api.v2.metadata.model_metadata", fail)
    answer = service.get("/v2/models/tiny")
    assert answer.status_code == 500
    assert list(answer.json()) == ["error"]
    assert "secret" not in answer.text
