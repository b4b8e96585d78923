from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from waiting import until

NAMES = {"policy": "tiny", "variant": "fp32", "model": "tiny", "version": "fp32"}
CHANGING = ("x-request-id", "date")
PAGES = ["/docs", "/openapi.json"]


@pytest.fixture(scope="module")
def readable(server: Any) -> list[str]:
    """Every path that has GET, with names that there are."""
    paths = httpx.get(server.url + "/openapi.json").json()["paths"]
    found = [re.sub(r"{(\w+)}", lambda m: NAMES[m[1]], p) for p, o in paths.items() if "get" in o]
    assert {"/", "/metrics", "/v1/policies", "/v2/models/tiny/stats"} <= set(found)
    return [*found, *PAGES]


def test_head_is_get_without_the_body(server: Any, readable: list[str]) -> None:
    with httpx.Client(base_url=server.url) as client:  # one connection, which stays in step
        client.get("/readyz")
        for path in readable:
            head = client.head(path, headers={"accept-encoding": "identity"})
            whole = client.get(path, headers={"accept-encoding": "identity"})
            assert head.status_code == whole.status_code, path
            assert head.content == b""
            assert whole.content
            told, expected = dict(head.headers), dict(whole.headers)
            for name in CHANGING:
                told.pop(name), expected.pop(name)
            if path == "/metrics":  # which the request itself changes
                assert abs(int(told["content-length"]) - int(expected["content-length"])) < 2000
                expected["content-length"] = told["content-length"]
            assert told == expected, path
            assert int(told["content-length"]) > 0


def test_head_of_what_is_wrong_is_wrong_too(server: Any) -> None:
    for path, status in (("/v1/none", 404), ("/v1/policies/none", 404), ("/v2/models/none", 404)):
        head, whole = httpx.head(server.url + path), httpx.get(server.url + path)
        assert (head.status_code, whole.status_code, head.content) == (status, status, b"")
        assert head.headers["content-type"] == whole.headers["content-type"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("HEAD", "/v1/policies/tiny/act", "POST"),
        ("POST", "/v1/policies", "GET, HEAD"),
        ("DELETE", "/", "GET, HEAD"),
        ("PUT", "/docs", "GET, HEAD"),
        ("POST", "/v1/policies/tiny/stream", "GET, HEAD"),
        ("OPTIONS", "/v2/models/tiny", "GET, HEAD"),
    ],
)
def test_where_it_is_not_the_answer_says_what_is(
    server: Any, method: str, path: str, allow: str
) -> None:
    answer = httpx.request(method, server.url + path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allow


def test_the_document_of_the_interface_does_not_name_it(server: Any) -> None:
    paths = httpx.get(server.url + "/openapi.json").json()["paths"]
    assert not [path for path, operations in paths.items() if "head" in operations]


def test_a_log_tells_head_from_get(launch_once: Any) -> None:
    server = launch_once(SLIMQ_ACCESS_LOG="1")
    assert httpx.head(server.url + "/v1/policies").status_code == 200
    until(lambda: '"method": "HEAD"' in server.log.read_text(), 10, "the line of the log")
