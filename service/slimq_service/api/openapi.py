"""The OpenAPI document: FastAPI's own, plus the endpoints that FastAPI does not see."""

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
from slimq_service.requests.routing import KEY_HEADER, MAX_KEY_BYTES

PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "A problem document (RFC 9457).",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "examples": [f"{TYPE_PREFIX}invalid-observation"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what is wrong and how to fix it"},
        "code": {
            "type": "string",
            "description": "stable error code, shared with the command line",
        },
        "field": {"type": "string", "description": "the part of the request in error"},
        "limit": {"description": "what is allowed for that field"},
        "received": {"type": "string"},
        "available": {"type": "array", "items": {"type": "string"}},
        "request_id": {"type": "string", "description": "as in the X-Request-Id header"},
    },
}
REQUEST: dict[str, Any] = {
    "type": "object",
    "description": "If a key is repeated, its last value counts.",
    "additionalProperties": False,
    "required": ["observations"],
    "properties": {
        "observations": {
            "type": ["array", "object"],
            "description": "nested lists (batch, *shape), or one observation without the batch "
            "dimension; the policy's manifest has shape and dtype. If it has parts, also an object "
            "with such lists for each part by name.",
            "minItems": 1,
            "items": {},
        },
        "variant": {"type": ["string", "null"], "description": "the variant to run"},
    },
}
RESPONSE: dict[str, Any] = {
    "type": "object",
    "required": ["policy", "variant", "sha256", "actions", "q_values"],
    "properties": {
        "policy": {"type": "string"},
        "variant": {"type": "string", "description": "the variant that was run"},
        "sha256": {"type": "string", "description": "SHA-256 of the stored model"},
        "actions": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "greedy action of each observation, as the environment numbers it",
        },
        "q_values": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
    },
}
REQUEST_EXAMPLES = {
    "one": {
        "summary": "one CartPole observation",
        "value": {"observations": [[0.01, -0.02, 0.03, 0.04]]},
    },
    "variant": {
        "summary": "two observations for a given variant",
        "value": {"observations": [[0, 0, 0, 0], [0.1, 0, -0.1, 0]], "variant": "int8"},
    },
}
PARTS_EXAMPLE = {
    "summary": "two observations of a policy with named parts",
    "value": {"observations": {"position": [[0, 0.5], [1, 0]], "direction": [0, 3]}},
}
RESPONSE_EXAMPLE = {
    "policy": "cartpole",
    "variant": "int8",
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "actions": [1],
    "q_values": [[98.25, 99.5]],
}
_NUMBER = {"type": "number"}
COMPARE_RESPONSE: dict[str, Any] = {
    "type": "object",
    "required": ["policy", "reference", "variants", "failed"],
    "properties": {
        "policy": {"type": "string"},
        "reference": {"type": "string", "description": "the variant the others are compared with"},
        "variants": {
            "type": "array",
            "description": "the reference first",
            "items": {
                "type": "object",
                "properties": {
                    **{key: RESPONSE["properties"][key] for key in RESPONSE["required"][1:]},
                    "agreement": {
                        **_NUMBER,
                        "description": "share of observations with the same greedy action",
                    },
                    "regret": {
                        **_NUMBER,
                        "description": "mean loss of its actions in the reference's Q-values",
                    },
                    "mean_q_difference": {**_NUMBER, "description": "mean absolute difference"},
                    "max_q_difference": {**_NUMBER, "description": "maximum absolute difference"},
                    "seconds": {
                        "type": "object",
                        "properties": {"queue": _NUMBER, "inference": _NUMBER},
                    },
                },
            },
        },
        "failed": {
            "type": "object",
            "description": "variants that failed, each with its problem document",
            "additionalProperties": {"$ref": "#/components/schemas/Problem"},
        },
    },
}
PROBLEMS = {
    400: "The body does not match its content type, or the request names two variants.",
    404: "Unknown policy or variant; `available` lists the known ones.",
    408: "The body did not arrive in time.",
    413: "The body, compressed or decompressed, or the batch exceeds a limit.",
    415: "The content type or content encoding is not supported.",
    422: "The observations do not fit the policy, or their Q-values are not finite.",
    500: "Internal error.",
    503: "The variant's files are broken, or the repository cannot be read; or the queue is full, "
    "or the request was queued for too long: Retry-After then says when to retry.",
}


def add_openapi(app: FastAPI, *amend: Callable[[dict[str, Any]], None]) -> None:
    """Adds the endpoints that FastAPI does not see to the application's document; amends it."""

    def build() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _make(app)
            for change in amend:
                change(app.openapi_schema)
        return app.openapi_schema

    app.openapi = build  # type: ignore[method-assign]


def _make(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas |= {"Problem": PROBLEM, "ActRequest": REQUEST, "ActAnswer": RESPONSE}
    schemas["CompareAnswer"] = COMPARE_RESPONSE
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    schemas["Failure"] = Failure.model_json_schema()
    schemas |= {"InferRequest": schema.REQUEST, "InferAnswer": schema.RESPONSE}
    for path, operations in document["paths"].items():
        other = {"description": "Problem document", "content": problem}
        if is_v2(path):
            other = {"description": "Error", "content": {JSON: schema.FAILURE}}
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"].setdefault("default", other)
    document["paths"][POLICY_PATH] = {"post": _act(["policy"], problem)}
    document["paths"][VARIANT_PATH] = {"post": _act(["policy", "variant"], problem)}
    document["paths"][COMPARE_PATH] = {"post": _compare(problem)}
    document["paths"][stream.POLICY_PATH] = {"get": stream_operation(["policy"])}
    document["paths"][stream.VARIANT_PATH] = {"get": stream_operation(["policy", "variant"])}
    document["paths"][MODEL_PATH] = {"post": schema.infer_operation(["model"])}
    document["paths"][MODEL_VERSION_PATH] = {"post": schema.infer_operation(["model", "version"])}
    return document


def _act(names: list[str], problem: dict[str, Any]) -> dict[str, Any]:
    described = "the variant to run; may also be given in the path or the body"
    key = {
        "name": KEY_HEADER,
        "in": "header",
        "required": False,
        "schema": {"type": "string", "maxLength": MAX_KEY_BYTES},
        "description": "requests with the same key go to the same variant, if they name none and "
        "the policy has weights",
    }
    response = {"schema": {"$ref": "#/components/schemas/ActAnswer"}, "example": RESPONSE_EXAMPLE}
    return {
        "tags": ["act"],
        "summary": "Actions and Q-values for observations",
        "operationId": "act_" + "_".join(names),
        "parameters": [
            *map(_in_path, names),
            _in_query("variant", described),
            key,
            schema.CONTENT_ENCODING,
        ],
        **_body_and_responses({**REQUEST_EXAMPLES, "parts": PARTS_EXAMPLE}, response, problem),
    }


def _compare(problem: dict[str, Any]) -> dict[str, Any]:
    examples = {"one": REQUEST_EXAMPLES["one"], "parts": PARTS_EXAMPLE}
    response = {"schema": {"$ref": "#/components/schemas/CompareAnswer"}}
    described = "comma-separated names; by default all variants of the policy"
    reference = "the variant to compare with; by default the policy's baseline"
    return {
        "tags": ["act"],
        "summary": "Run the same observations through several variants",
        "operationId": "compare",
        "parameters": [
            _in_path("policy"),
            _in_query("variants", described),
            _in_query("reference", reference),
            schema.CONTENT_ENCODING,
        ],
        **_body_and_responses(examples, response, problem),
    }


def _body_and_responses(
    examples: dict[str, Any], response: dict[str, Any], problem: dict[str, Any]
) -> dict[str, Any]:
    request = {"schema": {"$ref": "#/components/schemas/ActRequest"}, "examples": examples}
    binary = {"type": "string", "format": "binary"}
    raw = {
        **binary,
        "description": "little-endian numbers of the policy's dtype in C order; parts follow each "
        "other in the order of the manifest",
    }
    npy = {**binary, "description": "an array (batch, *shape) in NumPy's npy format"}
    return {
        "requestBody": {
            "required": True,
            "content": {JSON: request, RAW: {"schema": raw}, NPY: {"schema": npy}},
        },
        "responses": {
            "200": {"description": "Success", "content": {JSON: response}},
            **{str(s): {"description": d, "content": problem} for s, d in PROBLEMS.items()},
        },
    }


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _in_query(name: str, description: str) -> dict[str, Any]:
    schema = {"type": "string"}
    return {
        "name": name,
        "in": "query",
        "required": False,
        "schema": schema,
        "description": description,
    }
