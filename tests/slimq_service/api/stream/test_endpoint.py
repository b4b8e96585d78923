from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from slimq.core.manifest import Routing
from slimq.core.publish import Publisher
from slimq.core.repository import Repository

TINY = "/v1/policies/tiny/stream"
ZEROS = np.zeros(4, np.float32)


def refused(service: Any, wire: Any, path: str, **options: Any) -> tuple[int, Any, Any]:
    async def ask() -> Any:
        return await wire(service.app.routes, path, **options).refused()

    status, headers, problem = service.run(ask())
    assert headers["content-type"] == "application/problem+json"
    assert problem["status"] == status
    return status, headers, problem


REFUSED: list[tuple[str, int, str, Any]] = [
    ("/v1/policies/pongg/stream", 404, "not-found", ["tiny", "tiny_frames"]),
    ("/v1/policies/tiny/variants/int8/stream", 404, "not-found", ["fp32", "other"]),
    (TINY + "?variant=int8", 404, "not-found", ["fp32", "other"]),
    (TINY + "?variant=", 404, "not-found", ["fp32", "other"]),
    (TINY + "?variant=fp32&variant=other", 400, "conflict", None),
    ("/v1/policies/tiny/variants/fp32/stream?variant=other", 400, "conflict", None),
    (TINY + "?varaint=other", 422, "invalid-input", None),
    ("/v1/policies/tiny/act", 404, "no-such-path", None),
    ("/healthz", 404, "no-such-path", None),
    ("/", 404, "no-such-path", None),
    ("/v1/policies/" + "x" * 5000 + "/stream", 404, "not-found", ["tiny", "tiny_frames"]),
]


@pytest.mark.parametrize(("path", "status", "code", "available"), REFUSED)
def test_a_stream_that_cannot_be_opened_is_refused_with_a_problem(
    service: Any, wire: Any, path: str, status: int, code: str, available: Any
) -> None:
    found, _, problem = refused(service, wire, path)
    assert (found, problem["code"], problem.get("available")) == (status, code, available)
    assert {"type", "title", "detail", "field", "received"} <= set(problem)
    assert service.metric(f'slimq_http_errors_total{{code="{code}"}}') == 1
    assert service.metric("slimq_streams_opened_total") == 0


def test_the_variant_is_chosen_by_path_or_by_query(service: Any, open_wire: Any) -> None:
    async def play(path: str) -> str:
        wire = await open_wire(service, path)
        answer = await wire.ask(ZEROS)
        await wire.gone()
        return str(answer["variant"])

    assert service.run(play(TINY)) == "fp32"
    assert service.run(play(TINY + "?variant=other")) == "other"
    assert service.run(play("/v1/policies/tiny/variants/other/stream")) == "other"
    assert service.run(play("/v1/policies/tiny/variants/other/stream?variant=other")) == "other"


def test_a_broken_variant_is_refused_with_its_file(
    service: Any, wire: Any, repositories: Any
) -> None:
    repositories.corrupt("tiny", "other")
    status, _, problem = refused(service, wire, "/v1/policies/tiny/variants/other/stream")
    assert (status, problem["code"]) == (503, "repository")
    assert "tiny/variants/other/model-" in problem["field"]


def test_a_routing_key_that_is_too_long_is_refused(
    service: Any, wire: Any, repositories: Any
) -> None:
    Publisher(Repository(repositories.root)).route("tiny", Routing(weights={"fp32": 1}))
    service.get("/readyz")
    headers = [(b"routing-key", b"x" * 257)]
    assert refused(service, wire, TINY, headers=headers)[2]["code"] == "over-limit"


def test_the_number_of_open_streams_is_limited(start: Any, wire: Any, open_wire: Any) -> None:
    service = start(streams=2)

    async def play() -> Any:
        wires = [await open_wire(service, TINY) for _ in range(2)]
        answer = await wire(service.app.routes, TINY).refused()
        await wires.pop().gone()
        wires.append(await open_wire(service, TINY))
        assert "action" in await wires[-1].ask(ZEROS)
        for one in wires:
            await one.gone()
        return answer

    status, headers, problem = service.run(play())
    assert (status, problem["code"]) == (503, "overloaded")
    assert (problem["limit"], problem["unit"]) == (2, "streams")
    assert headers["retry-after"] == str(problem["retry_after"]) == "5"
    assert problem["detail"] == "all 2 streams are in use; try again in 5 s"
    assert service.metric("slimq_streams_opened_total") == 3
    assert service.metric("slimq_streams_open") == 0


def test_streams_can_be_turned_off(start: Any, wire: Any) -> None:
    service = start(streams=0)
    assert refused(service, wire, TINY)[2]["code"] == "overloaded"


def test_refused_streams_do_not_count_against_the_limit(
    start: Any, wire: Any, open_wire: Any
) -> None:
    service = start(streams=1)
    for _ in range(3):
        assert refused(service, wire, "/v1/policies/none/stream")[0] == 404

    async def play() -> None:
        await (await open_wire(service, TINY)).gone()

    service.run(play())


def test_no_stream_is_opened_during_shutdown(service: Any, wire: Any, open_wire: Any) -> None:
    async def play() -> None:
        one = await open_wire(service, TINY)
        ending = asyncio.ensure_future(service.app.streams.end())
        assert (await one.closed())[0] == 1001
        await asyncio.wait_for(ending, 10)

    service.run(play())
    status, headers, problem = refused(service, wire, TINY)
    assert (status, problem["code"]) == (503, "closing")
    assert headers["retry-after"] == "1"
    service.run(asyncio.wait_for(service.app.streams.end(), 10))


def test_a_stream_still_loading_at_shutdown_is_refused(
    service: Any, wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = service.app.streams
    get = service.app.catalogue.get

    async def late(*names: str) -> Any:
        found = await get(*names)
        await streams.end()
        return found

    monkeypatch.setattr(service.app.catalogue, "get", late)
    assert refused(service, wire, TINY)[2]["code"] == "closing"


def test_an_internal_error_is_a_problem_and_frees_the_slot(
    start: Any, wire: Any, open_wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    service = start(streams=1)
    with monkeypatch.context() as patch:
        patch.setattr("slimq_service.api.stream.endpoint.choose", fail)
        status, _, problem = refused(service, wire, TINY)
    assert (status, problem["code"], "secret" in str(problem)) == (500, "internal", False)

    async def play() -> None:
        await (await open_wire(service, TINY)).gone()

    service.run(play())


def test_a_server_without_http_answers_closes(service: Any, wire: Any) -> None:
    async def play() -> Any:
        return await wire(service.app.routes, "/v1/policies/none/stream", extensions=()).closed()

    assert service.run(play()) == (1008, "not-found")


def test_a_request_without_an_upgrade_is_told_so(service: Any) -> None:
    for path in (TINY, "/v1/policies/tiny/variants/fp32/stream"):
        answer = service.get(path)
        problem = answer.json()
        assert answer.status_code == problem["status"] == 426
        assert (answer.headers["upgrade"], problem["code"]) == ("websocket", "upgrade-required")
        assert problem["limit"] == "websocket"
        assert "ws://" in problem["detail"]
    assert service.request("POST", TINY).status_code == 405
    assert service.metric('slimq_http_errors_total{code="upgrade-required"}') == 2


def test_a_cancelled_stream_frees_its_slot(start: Any, open_wire: Any) -> None:
    service = start(streams=1)

    async def play() -> None:
        for _ in range(2):
            one = await open_wire(service, TINY)
            one.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await one.task

    service.run(play())
    assert service.metric('slimq_streams_closed_total{reason="restart"}') == 2
    assert service.metric("slimq_streams_open") == 0
