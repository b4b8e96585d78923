from __future__ import annotations

from typing import Any

import pytest

from slimq_service.errors import MalformedError
from slimq_service.http.bodies import ClientGoneError
from slimq_service.http.problems import Problem
from slimq_service.http.responses import Response
from slimq_service.requests.call import Call
from slimq_service.requests.pipeline import Pipeline

HEADERS = [(b"content-length", b"2")]


@pytest.fixture
def pipeline(service: Any) -> Pipeline:
    return service.app.pipeline


def respond(service: Any, pipeline: Pipeline, answer: Any, headers: Any = HEADERS) -> list[Any]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    def refuse(problem: Problem) -> Response:
        return Response(problem["status"], b"text/plain", problem["code"].encode())

    scope = {"type": "http", "path": "/", "headers": headers}
    call = Call()
    computed = answer(scope, receive, call)
    service.run(pipeline.respond(call, scope, receive, send, computed, refuse))
    return sent


def test_a_response_is_sent_with_its_length_and_headers(service: Any, pipeline: Pipeline) -> None:
    async def answer(scope: Any, receive: Any, call: Call) -> Response:
        body = await pipeline.body(receive, scope["headers"], call)
        return Response(200, b"text/x", body * 2, ((b"x-more", b"1"),))

    start, body = respond(service, pipeline, answer)
    assert start["status"] == 200
    assert start["headers"] == [
        (b"content-type", b"text/x"),
        (b"content-length", b"4"),
        (b"x-more", b"1"),
    ]
    assert (body["body"], body["more_body"]) == (b"{}{}", False)


def test_errors_are_encoded_by_the_endpoint_and_counted(service: Any, pipeline: Pipeline) -> None:
    async def fail(scope: Any, receive: Any, call: Call) -> Response:
        call.policy, call.variant = "tiny", "fp32"
        raise MalformedError("body", "sense", "none")

    async def blunder(scope: Any, receive: Any, call: Call) -> Response:
        raise ZeroDivisionError

    sent = respond(service, pipeline, fail)
    assert (sent[0]["status"], sent[1]["body"]) == (400, b"malformed-body")
    sent = respond(service, pipeline, blunder)
    assert (sent[0]["status"], sent[1]["body"]) == (500, b"internal")
    assert pipeline.recorder.statistics.of("tiny", "fp32").fail.count == 1
    series = 'slimq_errors_total{code="malformed-body",policy="tiny",variant="fp32"}'
    assert service.metric(series) == 1


def test_unknown_names_get_no_statistics(service: Any, pipeline: Pipeline) -> None:
    async def fail(scope: Any, receive: Any, call: Call) -> Response:
        call.policy, call.variant = "tiny", "none"
        raise MalformedError("body", "sense", "none")

    respond(service, pipeline, fail)
    assert pipeline.recorder.statistics.of("tiny", "none").fail.count == 0


def test_no_response_is_sent_once_the_client_has_gone(service: Any, pipeline: Pipeline) -> None:
    async def go(scope: Any, receive: Any, call: Call) -> Response:
        raise ClientGoneError

    assert respond(service, pipeline, go) == []
    assert service.metric("slimq_requests_in_flight") == 0


def test_a_call_without_a_request_is_recorded_alike(service: Any, pipeline: Pipeline) -> None:
    async def answer(value: str | Exception) -> str:
        if isinstance(value, Exception):
            raise value
        return value

    def settle(value: str | Exception) -> Any:
        delivered: list[Any] = []

        async def deliver(result: Any) -> None:
            delivered.append(result)

        call = Call(policy="tiny", variant="fp32")
        service.run(pipeline.recorder.settle(call, "/", answer(value), deliver))
        return delivered

    assert settle("done") == ["done"]
    assert settle(MalformedError("message", "sense", "none"))[0]["code"] == "malformed-body"
    assert settle(ZeroDivisionError())[0]["code"] == "internal"
    assert settle(ClientGoneError()) == []
    labels = 'policy="tiny",variant="fp32"'
    assert service.metric(f"slimq_requests_total{{{labels}}}") == 4
    for code in ("malformed-body", "internal", "client-gone"):
        assert service.metric(f'slimq_errors_total{{code="{code}",{labels}}}') == 1
    statistics = pipeline.recorder.statistics.of("tiny", "fp32")
    assert (statistics.success.count, statistics.fail.count) == (1, 2)
    assert service.metric("slimq_requests_in_flight") == 0


def test_a_long_body_that_is_refused_unread_closes_the_connection(
    service: Any, pipeline: Pipeline
) -> None:
    async def fail(scope: Any, receive: Any, call: Call) -> Response:
        raise MalformedError("body", "sense", "none")

    start, *bodies = respond(service, pipeline, fail, [(b"content-length", b"1000000")])
    assert (b"connection", b"close") in start["headers"]
    assert [body.get("more_body", False) for body in bodies] == [True, False]
