"""The error tree: every error has its data, a stable code and a message that says what to do."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from slimq.core import errors

EXAMPLES: list[tuple[errors.SlimqError, str, int, str]] = [
    (
        errors.EnvironmentFailure("Game-v0", "episode of seed 7, step 2", "reward", "none"),
        "environment",
        500,
        "Game-v0: episode of seed 7, step 2: reward: none",
    ),
    (
        errors.InvalidInputError("batch", "at most 5", "7"),
        "invalid-input",
        422,
        "batch: expected at most 5, received 7",
    ),
    (
        errors.ObservationError("body", "8 bytes", "7 bytes"),
        "invalid-observation",
        422,
        "body: expected 8 bytes, received 7 bytes",
    ),
    (
        errors.ConfigError("a.toml", "steps[1]", "unknown pass"),
        "invalid-config",
        422,
        "a.toml: steps[1]: unknown pass",
    ),
    (
        errors.NotFoundError("variant", "int9", ["int8", "fp32"]),
        "not-found",
        404,
        "unknown variant 'int9', did you mean 'int8'?; available: fp32, int8",
    ),
    (
        errors.NotFoundError("policy", "x", []),
        "not-found",
        404,
        "unknown policy 'x'; available: none",
    ),
    (
        errors.RepositoryError("pong/policy.json", "is missing"),
        "repository",
        503,
        "pong/policy.json: is missing",
    ),
    (
        errors.MissingExtraError("torch", "train"),
        "missing-extra",
        500,
        "torch is not installed: pip install 'slimq[train]'",
    ),
    (
        errors.AcceptGateError("int8", [("return_ratio", 0.5, "at least", 0.98, "")]),
        "gate",
        500,
        "variant 'int8' is not accepted and was not published: "
        "return_ratio is 0.5, at least 0.98 is needed",
    ),
    (
        errors.AcceptGateError(
            "int8", [("max_bytes", 1_234_567.0, "at most", 843_750.0, "1/8 of the 6750000 bytes")]
        ),
        "gate",
        500,
        "variant 'int8' is not accepted and was not published: "
        "max_bytes is 1234567, at most 843750 (1/8 of the 6750000 bytes) is needed",
    ),
    (errors.TrainingError("loss is nan"), "training", 500, "loss is nan"),
    (errors.GateError("too big"), "gate", 500, "too big"),
    (errors.CheckFailedError("2 problems"), "check-failed", 500, "2 problems"),
    (errors.ServiceError("http://a", 404, "nope"), "service", 500, "http://a: 404 nope"),
    (errors.ServiceError("http://a", None, "refused"), "service", 500, "http://a: refused"),
]


@pytest.mark.parametrize(("error", "code", "status", "message"), EXAMPLES)
def test_an_error_has_its_code_status_and_message(
    error: errors.SlimqError, code: str, status: int, message: str
) -> None:
    assert (error.code, error.status, str(error)) == (code, status, message)


@pytest.mark.parametrize("error", [example[0] for example in EXAMPLES])
def test_an_error_comes_back_from_another_process_as_it_was(error: errors.SlimqError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_errors_carry_their_data() -> None:
    invalid = errors.InvalidInputError("batch", "at most 5", "7")
    assert (invalid.field, invalid.expected, invalid.received) == ("batch", "at most 5", "7")
    hinted = errors.InvalidInputError("body", "the key a", "'b'", ", did you mean 'a'?")
    assert (hinted.expected, hinted.received) == ("the key a", "'b'")
    assert str(hinted) == "body: expected the key a, received 'b', did you mean 'a'?"
    unknown = errors.NotFoundError("variant", "x", iter(["b", "a"]))
    assert (unknown.kind, unknown.name, unknown.available) == ("variant", "x", ["a", "b"])
    config = errors.ConfigError("a.toml", "seed", "wrong")
    assert (config.source, config.place, config.problem) == ("a.toml", "seed", "wrong")
    stored = errors.RepositoryError("p", "q")
    assert (stored.path, stored.problem) == ("p", "q")
    missing = errors.MissingExtraError("torch", "train")
    assert (missing.module, missing.extra) == ("torch", "train")
    service = errors.ServiceError("u", 500, "p")
    assert (service.url, service.http_status, service.problem) == ("u", 500, "p")


def _subclasses(kind: type[errors.SlimqError]) -> Iterator[type[errors.SlimqError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def test_every_error_of_the_tree_has_an_example_and_its_own_code() -> None:
    kinds = {kind for kind in _subclasses(errors.SlimqError) if kind.__module__ == errors.__name__}
    assert kinds <= {type(example[0]) for example in EXAMPLES}
    codes = [kind.code for kind in kinds if "code" in vars(kind)]
    assert len(set(codes)) == len(codes)


def test_a_suggestion_is_made_only_for_a_near_name() -> None:
    assert errors.suggestion("pnog", ["pong", "cartpole"]) == ", did you mean 'pong'?"
    assert errors.suggestion("chess", ["pong", "cartpole"]) == ""
    assert errors.suggestion("x", []) == ""


def test_only_the_start_of_a_long_name_is_compared() -> None:
    """All of it would take seconds, and would be like nothing."""
    assert errors.suggestion("x" * 8_000_000, ["x" * 64]) == f", did you mean {'x' * 64!r}?"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("one", "one"),
        ("one\ntwo", "one"),
        ("one\r\ntwo", "one"),
        ("", "OSError"),
        ("\n2", "OSError"),
    ],
)
def test_first_line_is_the_first_line_of_the_message_or_the_type(message: str, line: str) -> None:
    assert errors.first_line(OSError(message)) == line
