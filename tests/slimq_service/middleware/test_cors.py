from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

ACT, INFER, LOAD = (
    "/v1/policies/tiny/act",
    "/v2/models/tiny/infer",
    "/v2/repository/models/tiny/load",
)
PAGE, OTHER = "https://lab.example", "https://evil.example"
ACT_BODY = {"json": {"observations": [[0, 0, 0, 0]]}}
KEY = {"authorization": "Bearer key-of-the-tests"}
RAW = {"inference-header-content-length": "0"}


def preflight(server: Any, path: str, origin: str = PAGE, method: str = "POST") -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": "authorization,content-encoding,content-type",
    }
    return httpx.options(server.url + path, headers=headers)


def allowed(answer: httpx.Response) -> str | None:
    return answer.headers.get("access-control-allow-origin")


@pytest.fixture(scope="module")
def shared(launch_once: Any) -> Any:
    """A process that a page may use, with a key."""
    key = KEY["authorization"].removeprefix("Bearer ")
    return launch_once(SLIMQ_CORS_ORIGINS=f"{PAGE},http://localhost:3000", SLIMQ_API_KEY=key)


@pytest.mark.parametrize("path", [ACT, INFER, LOAD, "/v1/none"])
def test_a_preflight_is_answered_without_a_key(shared: Any, path: str) -> None:
    answer = preflight(shared, path)
    assert answer.status_code == 200
    assert allowed(answer) == PAGE
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD, POST"
    named = answer.headers["access-control-allow-headers"].split(",")
    assert named == ["authorization", "content-encoding", "content-type"]
    assert "Origin" in answer.headers["vary"]
    assert answer.headers["x-request-id"]
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    ("origin", "method", "field"),
    [
        (OTHER, "POST", "Origin"),
        ("null", "POST", "Origin"),
        (PAGE + ".evil.example", "POST", "Origin"),
        (PAGE, "DELETE", "Access-Control-Request-Method"),
    ],
)
def test_another_preflight_is_a_problem(shared: Any, origin: str, method: str, field: str) -> None:
    answer = preflight(shared, ACT, origin, method)
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["code"], problem["field"]) == ("cross-site", field)
    assert problem["received"] == repr(method if "Method" in field else origin)
    assert allowed(answer) == (PAGE if origin == PAGE else None)


def test_a_page_reads_what_is_answered_and_what_is_refused(shared: Any) -> None:
    zeros = {"content": bytes(16), "headers": RAW}
    for path, options, status in (
        (ACT, ACT_BODY, 200),
        (INFER, zeros, 200),
        (ACT, {"json": {"observations": [[0]]}}, 422),
        (ACT, {"content": b"x" * 9_000_000}, 413),
        ("/v1/policies/none/act", ACT_BODY, 404),
        ("/v1/none", {}, 404),
        ("/v1/policies", {}, 405),
    ):
        headers = {"origin": PAGE, **KEY, **options.get("headers", {})}
        if "content" in options and path == ACT:
            headers["content-type"] = "application/octet-stream"
        answer = httpx.post(shared.url + path, **{**options, "headers": headers})
        assert (answer.status_code, allowed(answer)) == (status, PAGE), answer.text
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert {"X-Request-Id", "Retry-After", "Inference-Header-Content-Length"} <= set(exposed)
    answer = httpx.get(shared.url + "/v1/policies", headers={"origin": PAGE})
    assert (answer.status_code, allowed(answer)) == (401, PAGE)


def test_another_page_may_send_but_not_read(shared: Any) -> None:
    answer = httpx.post(shared.url + ACT, **ACT_BODY, headers={"origin": OTHER, **KEY})
    assert answer.status_code == 200
    assert allowed(answer) is None
    assert answer.headers["vary"] == "Origin", "no cache may keep it for the other"


def test_a_client_without_an_origin_is_answered_as_ever(shared: Any) -> None:
    answer = httpx.post(shared.url + ACT, **ACT_BODY, headers=KEY)
    assert answer.status_code == 200
    assert allowed(answer) is None


def test_a_mistake_of_ours_can_be_read_too(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service = start(cors_origins=(PAGE,))

    async def fail() -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(service.app.catalogue, "refresh", fail)
    answer = service.get("/v1/policies", headers={"origin": PAGE})
    assert (answer.status_code, allowed(answer)) == (500, PAGE)


def test_every_origin_may_where_the_setting_says_so(start: Any) -> None:
    service = start(cors_origins=("*",))
    assert allowed(service.act("tiny", [[0] * 4], headers={"origin": OTHER})) == "*"
    headers = {"origin": OTHER, "access-control-request-method": "POST"}
    assert allowed(service.request("OPTIONS", ACT, headers=headers)) == "*"


def test_without_the_setting_there_is_no_cors(service: Any) -> None:
    answer = service.act("tiny", [[0] * 4], headers={"origin": PAGE})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    headers = {"origin": PAGE, "access-control-request-method": "POST"}
    answer = service.request("OPTIONS", ACT, headers=headers)
    assert answer.status_code == 405
    assert json.loads(answer.content)["code"] == "method-not-allowed"
    assert allowed(answer) is None
