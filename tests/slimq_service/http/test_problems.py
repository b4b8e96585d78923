from __future__ import annotations

from typing import Any

import orjson
import pytest

from slimq.core.errors import (
    InvalidInputError,
    NotFoundError,
    ObservationError,
    RepositoryError,
    SlimqError,
)
from slimq_service import errors
from slimq_service.http.problems import (
    explain,
    internal_problem,
    no_such_path,
    problem_of,
    render,
    truncate,
)

EXAMPLES = [
    (ObservationError("observations[0]", "4 elements", "3 elements"), 422),
    (InvalidInputError("body", "keys", "'x'"), 422),
    (errors.LimitError("body", 10, "11 bytes", "bytes"), 413),
    (errors.MalformedError("body", "valid JSON", "nothing"), 400),
    (errors.MediaTypeError("Content-Type", "application/json", "'text/plain'"), 415),
    (errors.ConflictError("variant", "one variant", "two"), 400),
    (errors.NonFiniteError("observations[1]", "finite", "nan"), 422),
    (errors.BodyTimeoutError(1.0), 408),
    (errors.HeadTimeoutError(1.0), 408),
    (errors.HeadLimitError("head", 10, "11 bytes", "bytes"), 431),
    (errors.MalformedRequestError("request", "HTTP/1.1", "something else"), 400),
]


@pytest.mark.parametrize(("error", "status"), EXAMPLES)
def test_bad_input_names_field_limit_and_what_was_received(error: SlimqError, status: int) -> None:
    problem = orjson.loads(render(problem_of(error)))
    assert problem["status"] == status
    assert problem["type"] == f"urn:slimq:problem:{problem['code']}"
    assert problem["title"]
    assert problem["detail"] == str(error)
    for member in ("field", "limit", "received"):
        assert problem[member], member


def test_what_is_not_found_lists_what_there_is() -> None:
    problem = problem_of(NotFoundError("variant", "int9", ["int8", "fp32"]))
    assert problem["status"] == 404
    assert problem["available"] == ["fp32", "int8"]
    assert "did you mean 'int8'" in problem["detail"]


def test_a_broken_repository_names_the_file() -> None:
    problem = problem_of(RepositoryError("pong/model.onnx", "sha256 differs"))
    assert (problem["status"], problem["field"]) == (503, "pong/model.onnx")


@pytest.mark.parametrize(
    ("error", "data"),
    [
        (errors.OverloadedError(9, 2), {"limit": 9, "unit": "requests", "retry_after": 2}),
        (errors.OverloadedError(9, 2, "bytes"), {"limit": 9, "unit": "bytes", "retry_after": 2}),
        (errors.DeadlineError(1.5), {"limit": "1.5 s", "retry_after": 1}),
        (errors.ClosingError(), {"retry_after": 1}),
        (errors.ConnectionsError(9), {"limit": 9, "unit": "connections", "retry_after": 1}),
    ],
)
def test_what_passes_says_when_to_come_again(error: SlimqError, data: dict[str, Any]) -> None:
    assert problem_of(error).items() >= {"status": 503, **data}.items()


def test_our_own_mistake_tells_nothing_of_the_inside() -> None:
    assert internal_problem()["code"] == "internal"
    assert explain(ValueError("secret")) == internal_problem()
    assert explain(errors.ClosingError()) == problem_of(errors.ClosingError())


def test_what_is_not_there_says_which_path_it_was() -> None:
    problem = no_such_path("/v3", "there is nothing at '/v3'")
    assert problem.items() >= {"status": 404, "code": "no-such-path", "received": "/v3"}.items()


def test_long_and_unencodable_texts_become_short_and_valid() -> None:
    assert len(truncate("x" * 100_000, 500)) < 540
    orjson.dumps(truncate("\ud800", 10))
