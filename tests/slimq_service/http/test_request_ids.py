from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from typing import Any

import httpx
import pytest

from slimq_service.http.request_ids import CURRENT_ID, RequestIds, add_request_id, id_maker
from slimq_service.server.logs import configure_logs

ACT = "/v1/policies/tiny/act"
MADE = re.compile(r"[0-9a-f]{12}-[0-9]+")
ANSWERS = [
    ("GET", "/healthz", 200),
    ("GET", "/docs", 200),
    ("POST", ACT, 415),
    ("POST", "/v2/models/tiny/infer", 400),
    ("GET", "/nothing/here", 404),
    ("DELETE", "/v1/policies", 405),
    ("GET", "/v1/policies/none", 404),
    ("POST", "/v2/repository/models/tiny/load", 401),
]


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
def test_every_answer_has_an_id_and_so_has_its_problem(
    start: Any, method: str, path: str, status: int
) -> None:
    service = start(admin_key="key")
    answers = [service.request(method, path) for _ in range(2)]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert [answer.status_code for answer in answers] == [status] * 2
    assert all(MADE.fullmatch(one) for one in ids)
    assert len(set(ids)) == 2
    if "problem" in answers[0].headers["content-type"]:
        assert [answer.json()["request_id"] for answer in answers] == ids


def test_the_clients_own_id_is_kept_and_an_answer_has_it(service: Any) -> None:
    for sane in ("a", "A1._-z", "x" * 128):
        headers = {"x-request-id": sane}
        assert service.act("tiny", [[0] * 4], headers=headers).headers["x-request-id"] == sane
        answer = service.act("tiny", [[0] * 3], headers=headers)
        assert answer.json()["request_id"] == sane


@pytest.mark.parametrize("wild", ["", "x" * 129, "a b", 'a"b', "é", "a\tb", "a;b", "{}"])
def test_what_is_no_id_is_replaced(service: Any, wild: str) -> None:
    answer = service.get("/healthz", headers=[(b"x-request-id", wild.encode("latin-1"))])
    assert MADE.fullmatch(answer.headers["x-request-id"])


def test_a_mistake_of_ours_has_the_id_in_answer_and_log(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure_logs(logging.INFO)
    monkeypatch.setattr("slimq_service.api.v1.policies.list_policies", fail)
    answer = service.get("/v1/policies", headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "mine")
    assert answer.json()["request_id"] == "mine"
    (logged,) = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (logged["event"], logged["request_id"]) == ("request failed", "mine")


def test_what_a_request_has_done_for_it_is_logged_under_its_id(
    launch: Any, tiny_repository: Any, tmp_path: Any
) -> None:
    server = launch(tiny_repository, tmp_path / "log")
    body = {"observations": [[0] * 4]}
    for name in ("first", "second"):
        httpx.post(server.url + ACT, json=body, headers={"x-request-id": name})
    logs = [json.loads(line) for line in server.log.read_text().splitlines()]
    (loaded,) = [log for log in logs if log["event"] == "variant loaded"]
    assert loaded["request_id"] == "first"
    assert [log for log in logs if log.get("request_id") not in (None, "first")] == []


def test_a_logger_may_say_an_id_itself() -> None:
    token = CURRENT_ID.set("current")
    try:
        assert add_request_id(None, "", {})["request_id"] == "current"
        assert add_request_id(None, "", {"request_id": "own"})["request_id"] == "own"
    finally:
        CURRENT_ID.reset(token)
    assert "request_id" not in add_request_id(None, "", {})


def test_two_processes_make_different_ids() -> None:
    first, second = id_maker(), id_maker()
    assert len({first(), first(), second(), second()}) == 4


def test_a_websocket_has_an_id_when_it_is_accepted() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "headers": [(b"x-request-id", b"mine")]}
    asyncio.run(RequestIds(app, id_maker())(scope, None, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.accept", "headers": [(b"x-request-id", b"mine")]}]
