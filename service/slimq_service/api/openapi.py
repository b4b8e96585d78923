"""The OpenAPI document: FastAPI's own, with the hot endpoints and the problem schema added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from slimq_service.api.stream import endpoint as stream
from slimq_service.api.stream.schema import stream_operation
from slimq_service.api.v1.act import POLICY_PATH, VARIANT_PATH
from slimq_service.api.v1.compare import PATH as COMPARE_PATH
from slimq_service.api.v2 import schema
from slimq_service.api.v2.documents import Failure
from slimq_service.api.v2.infer import MODEL_PATH
from slimq_service.api.v2.infer import VERSION_PATH as MODEL_VERSION_PATH
from slimq_service.decoding.observations import JSON, NPY, RAW
from slimq_service.http.error_responses import is_v2
from slimq_service.http.problems import MEDIA_TYPE, TYPE_PREFIX
from slimq_service.requests.routing import KEY_HEADER, LONGEST_KEY

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
        "request_id": {"type": "string", "description": "that of the X-Request-Id header"},
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
_NUMBER = {"type": "number"}
COMPARE_ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["policy", "reference", "variants", "failed"],
    "properties": {
        "policy": {"type": "string"},
        "reference": {"type": "string", "description": "the variant that the others are held to"},
        "variants": {
            "type": "array",
            "description": "the reference first",
            "items": {
                "type": "object",
                "properties": {
                    **{key: ANSWER["properties"][key] for key in ANSWER["required"][1:]},
                    "agreement": {**_NUMBER, "description": "share of the same action"},
                    "regret": {
                        **_NUMBER,
                        "description": "mean of what its actions lose by the reference's Q-values",
                    },
                    "mean_q_difference": {**_NUMBER, "description": "absolute"},
                    "max_q_difference": {**_NUMBER, "description": "absolute"},
                    "seconds": {
                        "type": "object",
                        "properties": {"queue": _NUMBER, "inference": _NUMBER},
                    },
                },
            },
        },
        "failed": {
            "type": "object",
            "description": "variants that could not answer, each with its problem document",
            "additionalProperties": {"$ref": "#/components/schemas/Problem"},
        },
    },
}
PROBLEMS = {
    400: "The body is not what its content type says, or two variants were named.",
    404: "Unknown policy or variant; `available` lists what there is.",
    408: "The body did not arrive in time.",
    413: "The body, as sent or decompressed, or the batch is over the limit.",
    415: "The content type is none of the three, or the content encoding is not supported.",
    422: "The observations do not fit the policy, or give Q-values that are not finite.",
    500: "A mistake of the service.",
    503: "The variant's files are broken, the repository cannot be read, too much waits already, "
    "or the request's turn did not come in time: Retry-After says when to come again after the "
    "last two.",
}


def add_openapi(app: FastAPI, *amend: Callable[[dict[str, Any]], None]) -> None:
    """Makes the application's document include the hot endpoints, and what others have to say."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _make(app)
            for change in amend:
                change(app.openapi_schema)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _make(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    schemas |= {"Problem": PROBLEM, "ActRequest": REQUEST, "ActAnswer": ANSWER}
    schemas["CompareAnswer"] = COMPARE_ANSWER
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    schemas["Failure"] = Failure.model_json_schema()
    schemas |= {"InferRequest": schema.REQUEST, "InferAnswer": schema.ANSWER}
    for path, operations in made["paths"].items():
        other = {"description": "A problem document", "content": problem}
        if is_v2(path):
            other = {"description": "An error", "content": {JSON: schema.FAILURE}}
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"].setdefault("default", other)
    made["paths"][POLICY_PATH] = {"post": _act(["policy"], problem)}
    made["paths"][VARIANT_PATH] = {"post": _act(["policy", "variant"], problem)}
    made["paths"][COMPARE_PATH] = {"post": _compare(problem)}
    made["paths"][stream.POLICY_PATH] = {"get": stream_operation(["policy"])}
    made["paths"][stream.VARIANT_PATH] = {"get": stream_operation(["policy", "variant"])}
    made["paths"][MODEL_PATH] = {"post": schema.infer_operation(["model"])}
    made["paths"][MODEL_VERSION_PATH] = {"post": schema.infer_operation(["model", "version"])}
    return made


def _act(names: list[str], problem: dict[str, Any]) -> dict[str, Any]:
    described = "which variant is to answer; it may also be named by path or in the body"
    key = {
        "name": KEY_HEADER,
        "in": "header",
        "required": False,
        "schema": {"type": "string", "maxLength": LONGEST_KEY},
        "description": "requests of one key go to one variant, where none is named and the policy "
        "has weights",
    }
    answer = {"schema": {"$ref": "#/components/schemas/ActAnswer"}, "example": ANSWER_EXAMPLE}
    return {
        "tags": ["act"],
        "summary": "Actions and Q-values of observations",
        "operationId": "act_" + "_".join(names),
        "parameters": [
            *map(_in_path, names),
            _by_query("variant", described),
            key,
            schema.CONTENT_ENCODING,
        ],
        **_body_and_answers(REQUEST_EXAMPLES, answer, problem),
    }


def _compare(problem: dict[str, Any]) -> dict[str, Any]:
    examples = {"one": REQUEST_EXAMPLES["one"]}
    answer = {"schema": {"$ref": "#/components/schemas/CompareAnswer"}}
    described = "names with commas between them; all of the policy's where there is none"
    reference = "which variant the others are held to; the policy's baseline where there is none"
    return {
        "tags": ["act"],
        "summary": "The same observations through several variants",
        "operationId": "compare",
        "parameters": [
            _in_path("policy"),
            _by_query("variants", described),
            _by_query("reference", reference),
            schema.CONTENT_ENCODING,
        ],
        **_body_and_answers(examples, answer, problem),
    }


def _body_and_answers(
    examples: dict[str, Any], answer: dict[str, Any], problem: dict[str, Any]
) -> dict[str, Any]:
    request = {"schema": {"$ref": "#/components/schemas/ActRequest"}, "examples": examples}
    binary = {"type": "string", "format": "binary"}
    raw = {**binary, "description": "little-endian numbers of the policy's dtype, C order"}
    npy = {**binary, "description": "numpy.save of an array (batch, *shape)"}
    return {
        "requestBody": {
            "required": True,
            "content": {JSON: request, RAW: {"schema": raw}, NPY: {"schema": npy}},
        },
        "responses": {
            "200": {"description": "The answer", "content": {JSON: answer}},
            **{str(s): {"description": d, "content": problem} for s, d in PROBLEMS.items()},
        },
    }


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _by_query(name: str, description: str) -> dict[str, Any]:
    schema = {"type": "string"}
    return {
        "name": name,
        "in": "query",
        "required": False,
        "schema": schema,
        "description": description,
    }
