"""The OpenAPI document: FastAPI's own, with the hot endpoints and the problem schema added."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from slimq_service.act import POLICY_PATH, VARIANT_PATH
from slimq_service.oip import schema
from slimq_service.oip.errors import is_protocol
from slimq_service.oip.infer import MODEL_PATH
from slimq_service.oip.infer import VERSION_PATH as MODEL_VERSION_PATH
from slimq_service.oip.models import Failure
from slimq_service.parsing import JSON, NPY, RAW
from slimq_service.problems import MEDIA_TYPE, TYPE_PREFIX
from slimq_service.stream import endpoint as stream

PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "A problem document (RFC 9457).",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "examples": [f"{TYPE_PREFIX}invalid-observation"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what is wrong, and what would be right"},
        "code": {"type": "string", "description": "stable, the same as on the command line"},
        "field": {"type": "string", "description": "what is wrong"},
        "limit": {"description": "what is allowed there"},
        "received": {"type": "string"},
        "available": {"type": "array", "items": {"type": "string"}},
    },
}
REQUEST: dict[str, Any] = {
    "type": "object",
    "description": "Of a key that is given twice, the last counts.",
    "additionalProperties": False,
    "required": ["observations"],
    "properties": {
        "observations": {
            "type": "array",
            "description": "nested lists (batch, *shape), or one observation without the batch; "
            "the policy's manifest has shape and dtype",
            "minItems": 1,
            "items": {},
        },
        "variant": {"type": ["string", "null"], "description": "which variant is to answer"},
    },
}
ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["policy", "variant", "sha256", "actions", "q_values"],
    "properties": {
        "policy": {"type": "string"},
        "variant": {"type": "string", "description": "which variant answered"},
        "sha256": {"type": "string", "description": "of its stored model"},
        "actions": {"type": "array", "items": {"type": "integer"}},
        "q_values": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
    },
}
REQUEST_EXAMPLES = {
    "one": {
        "summary": "one CartPole observation",
        "value": {"observations": [[0.01, -0.02, 0.03, 0.04]]},
    },
    "variant": {
        "summary": "two observations, answered by a variant of choice",
        "value": {"observations": [[0, 0, 0, 0], [0.1, 0, -0.1, 0]], "variant": "int8"},
    },
}
ANSWER_EXAMPLE = {
    "policy": "cartpole",
    "variant": "int8",
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "actions": [1],
    "q_values": [[98.25, 99.5]],
}
PROBLEMS = {
    400: "The body is not what its content type says, or two variants were named.",
    404: "Unknown policy or variant; `available` lists what there is.",
    408: "The body did not arrive in time.",
    413: "The body or the batch is over the limit.",
    415: "The content type is none of the three, or the body is compressed.",
    422: "The observations do not fit the policy, or give Q-values that are not finite.",
    500: "A mistake of the service.",
    503: "The variant's files are broken, the repository cannot be read, too much waits already, "
    "or the request's turn did not come in time: Retry-After says when to come again after the "
    "last two.",
}


STREAM = """A WebSocket: the server keeps the frames, each message is answered by one.

A binary message is the newest frame as raw little-endian bytes, or the whole observation where none
are stacked. A text message is a JSON object with `observation` (the same as nested lists), `reset`
(true: an episode begins) and `variant` (who answers from now on), at least one of them. The answer
has `policy`, `variant`, `sha256` and, where there was a frame, `action` and `q_values`; or it is a
problem document, and the message has changed nothing."""
STREAM_PROBLEMS = {
    400: "Path and query name different variants.",
    404: "Unknown policy or variant; `available` lists what there is.",
    422: "The query has another parameter than `variant`.",
    426: "The request asks for no WebSocket.",
    503: "Too many streams are open or the service is ending: Retry-After says when to come again; "
    "or the variant's files are broken or the repository cannot be read.",
}


def add_openapi(app: FastAPI) -> None:
    """Makes the application's document include the hot endpoints."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _make(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _make(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    schemas |= {"Problem": PROBLEM, "ActRequest": REQUEST, "ActAnswer": ANSWER}
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    schemas["Failure"] = Failure.model_json_schema()
    schemas |= {"InferRequest": schema.REQUEST, "InferAnswer": schema.ANSWER}
    for path, operations in made["paths"].items():
        other = {"description": "A problem document", "content": problem}
        if is_protocol(path):
            other = {"description": "An error", "content": {JSON: schema.FAILURE}}
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"].setdefault("default", other)
    made["paths"][POLICY_PATH] = {"post": _act(["policy"], problem)}
    made["paths"][VARIANT_PATH] = {"post": _act(["policy", "variant"], problem)}
    made["paths"][stream.POLICY_PATH] = {"get": _stream(["policy"], problem)}
    made["paths"][stream.VARIANT_PATH] = {"get": _stream(["policy", "variant"], problem)}
    made["paths"][MODEL_PATH] = {"post": schema.infer_operation(["model"])}
    made["paths"][MODEL_VERSION_PATH] = {"post": schema.infer_operation(["model", "version"])}
    return made


def _parameters(names: list[str], places: str) -> list[dict[str, Any]]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]
    by_query = {
        "name": "variant",
        "in": "query",
        "required": False,
        "schema": {"type": "string"},
        "description": f"which variant is to answer; it may also be named by path or in {places}",
    }
    return [*in_path, by_query]


def _stream(names: list[str], problem: dict[str, Any]) -> dict[str, Any]:
    return {
        "tags": ["stream"],
        "summary": "A control loop over WebSocket",
        "description": STREAM,
        "operationId": "stream_" + "_".join(names),
        "parameters": _parameters(names, "a message"),
        "responses": {
            "101": {"description": "The stream is open"},
            **{str(s): {"description": d, "content": problem} for s, d in STREAM_PROBLEMS.items()},
        },
    }


def _act(names: list[str], problem: dict[str, Any]) -> dict[str, Any]:
    request = {"schema": {"$ref": "#/components/schemas/ActRequest"}, "examples": REQUEST_EXAMPLES}
    answer = {"schema": {"$ref": "#/components/schemas/ActAnswer"}, "example": ANSWER_EXAMPLE}
    binary = {"type": "string", "format": "binary"}
    raw = {**binary, "description": "little-endian numbers of the policy's dtype, C order"}
    npy = {**binary, "description": "numpy.save of an array (batch, *shape)"}
    return {
        "tags": ["act"],
        "summary": "Actions and Q-values of observations",
        "operationId": "act_" + "_".join(names),
        "parameters": _parameters(names, "the body"),
        "requestBody": {
            "required": True,
            "content": {JSON: request, RAW: {"schema": raw}, NPY: {"schema": npy}},
        },
        "responses": {
            "200": {"description": "The answer", "content": {JSON: answer}},
            **{str(s): {"description": d, "content": problem} for s, d in PROBLEMS.items()},
        },
    }
