from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from slimq_service.middleware.access_log import MAX_PATH_LENGTH, printable_path
from waiting import until

ACT = "/v1/policies/tiny/act"


def logged(service: Any, method: str, path: str, **options: Any) -> Any:
    with capture_logs() as logs:
        service.request(method, path, **options)
    (found,) = [log for log in logs if log.get("component") == "access"]
    return found


def test_one_line_says_what_was_asked_and_answered(start: Any) -> None:
    service = start(access_log=True, api_key="key")
    options = {"json": {"observations": [[0] * 4]}, "headers": {"x-api-key": "key"}}
    found = logged(service, "POST", ACT + "?variant=other", **options)
    ms = found.pop("ms")
    assert 0 < ms < 10_000
    assert found == {
        "component": "access",
        "event": "request",
        "log_level": "info",
        "method": "POST",
        "path": ACT,
        "status": 200,
        "policy": "tiny",
        "variant": "other",
        "client": "127.0.0.1",
    }
    found = logged(service, "POST", ACT)
    assert (found["status"], found["policy"], found["variant"]) == (401, None, None)
    found = logged(service, "GET", "/healthz")
    assert (found["status"], found["policy"]) == (200, None)
    assert "key" not in str(found)


def test_the_shortest_way_through_says_whose_request_it_was_too(start: Any) -> None:
    service = start(access_log=True)
    options = {"json": {"observations": [[0] * 4]}}
    for policy, variant in (("tiny", "fp32"), ("tiny", "other")):
        path = f"/v1/policies/{policy}/variants/{variant}/act"
        for _ in range(3):
            found = logged(service, "POST", path, **options)
            assert (found["status"], found["policy"], found["variant"]) == (200, policy, variant)


def test_without_the_setting_nothing_is_logged(service: Any) -> None:
    service.get("/healthz")
    with capture_logs() as logs:
        service.get("/healthz")
        service.act("tiny", [[0] * 3])
    assert [log for log in logs if log["component"] == "access"] == []


PATHS = [
    ("/a%0Ab%0d%1b%5b31m", b"/a%0Ab%0d%1b%5b31m"),
    ("/a\nb\x1b[31m", None),
    ("/é\u2028", None),
    ("/" + "x" * 10_000, b"/" + b"x" * 10_000),
    ("/\udc80", b"/\x80\n"),
]


@pytest.mark.parametrize(("path", "raw"), PATHS)
def test_a_path_is_shown_in_one_bounded_printable_line(path: str, raw: bytes | None) -> None:
    shown = printable_path({"path": path, "raw_path": raw})
    assert shown.isprintable()
    assert "\n" not in shown
    assert len(shown) <= 10 * MAX_PATH_LENGTH
    assert shown[:1] == "/"


def requests(server: Any) -> list[str]:
    """The lines of the log about requests, but for the one with which the process was awaited."""
    lines = server.log.read_text().splitlines()
    return [line for line in lines if '"access"' in line and "healthz" not in line]


def test_no_request_breaks_a_line_of_the_log(launch_once: Any) -> None:
    server = launch_once(SLIMQ_ACCESS_LOG="1")
    for path in ("/a%0A%7B%22event%22:%22forged%22%7D", "/%1b[2J", "/" + "y" * 5000):
        httpx.get(server.url + path, headers={"x-request-id": "mine"})
    httpx.get(server.url + "/v1/policies/%0A%1b", headers={"x-request-id": 'a"b'})
    until(lambda: len(requests(server)) >= 4, 10, every=0.02)  # a line is written after the answer
    lines = requests(server)
    assert all(line.isprintable() for line in lines)
    logs = [json.loads(line) for line in lines]
    assert [log["status"] for log in logs] == [404] * 4
    assert [log["request_id"] for log in logs[:3]] == ["mine"] * 3
    assert logs[3]["request_id"] not in ("mine", 'a"b')
    assert max(map(len, lines)) < 1000
