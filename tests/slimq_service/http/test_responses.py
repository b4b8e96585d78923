from __future__ import annotations

import asyncio
from typing import Any

from slimq_service.http.problems import make_problem
from slimq_service.http.responses import Response, problem_response, retry_header, send_response

ANSWER = Response(503, b"text/plain", b"full", ((b"x-more", b"1"),))


def sent(**options: Any) -> list[Any]:
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    asyncio.run(send_response(send, ANSWER, **options))
    return messages


def test_an_answer_is_sent_with_its_length_and_headers() -> None:
    start, body = sent()
    assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
    assert start["status"] == 503
    assert start["headers"] == [
        (b"content-type", b"text/plain"),
        (b"content-length", b"4"),
        (b"x-more", b"1"),
    ]
    assert (body["body"], body["more_body"]) == (b"full", False)


def test_a_connection_that_closes_is_announced_and_waits_for_the_last_part() -> None:
    start, body = sent(close=True, kind="websocket.http.response")
    assert start["type"] == "websocket.http.response.start"
    assert start["headers"][-1] == (b"connection", b"close")
    assert body["more_body"]


def test_a_problem_that_passes_says_when_to_come_again() -> None:
    problem = make_problem(503, "overloaded", "full", retry_after=3)
    assert problem_response(problem).headers == ((b"retry-after", b"3"),)
    assert retry_header(make_problem(404, "not-found", "none")) == ()


def test_a_problem_is_answered_with_its_status_and_as_what_it_is() -> None:
    answer = problem_response(make_problem(404, "not-found", "none"))
    assert (answer.status, answer.media_type) == (404, b"application/problem+json")
    assert b'"code":"not-found"' in answer.body
