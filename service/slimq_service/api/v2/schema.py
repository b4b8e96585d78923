"""The infer endpoint in the OpenAPI document, as FastAPI does not see it."""

from __future__ import annotations

from typing import Any

from slimq_service.api.v2.documents import TAG
from slimq_service.api.v2.framing import LENGTH_NAME
from slimq_service.api.v2.tensors import ACTIONS, DATATYPES, INPUT, OUTPUTS, Q_VALUES
from slimq_service.http.content_encoding import ALIASES, WINDOW_BITS

FAILURE = {"schema": {"$ref": "#/components/schemas/Failure"}}
JSON = "application/json"
BINARY = "application/octet-stream"
SHAPE = {"type": "array", "items": {"type": "integer", "minimum": 0}}
CONTENT_ENCODING: dict[str, Any] = {
    "name": "Content-Encoding",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "enum": [*WINDOW_BITS, *ALIASES]},
    "description": "compression of the body; limits also apply to the decompressed body",
}
PARAMETERS = {
    "type": "object",
    "description": "other parameters are ignored",
    "additionalProperties": True,
}
REQUEST: dict[str, Any] = {
    "type": "object",
    "description": "Unknown keys are ignored.",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string", "description": "repeated in the response"},
        "parameters": {
            **PARAMETERS,
            "properties": {
                "binary_data_output": {
                    "type": "boolean",
                    "default": False,
                    "description": "default of `binary_data` of the outputs",
                }
            },
        },
        "inputs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype"],
                "properties": {
                    "name": {"const": INPUT},
                    "shape": {
                        **SHAPE,
                        "description": "the batch size, then the model's input shape",
                    },
                    "datatype": {
                        "enum": list(DATATYPES.values()),
                        "description": "the model's datatype",
                    },
                    "parameters": {
                        **PARAMETERS,
                        "properties": {
                            "binary_data_size": {
                                "type": "integer",
                                "minimum": 0,
                                "description": "bytes of the tensor after the JSON, instead of "
                                "`data`",
                            }
                        },
                    },
                    "data": {
                        "type": "array",
                        "description": "numbers, nested or flattened in row-major order",
                        "items": {},
                    },
                },
            },
        },
        "outputs": {
            "type": "array",
            "description": "outputs to return; by default all",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"enum": list(OUTPUTS)},
                    "parameters": {
                        **PARAMETERS,
                        "properties": {"binary_data": {"type": "boolean"}},
                    },
                },
            },
        },
    },
}
RESPONSE: dict[str, Any] = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string", "description": "the variant that was run"},
        "id": {"type": "string"},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "datatype", "shape"],
                "properties": {
                    "name": {"enum": list(OUTPUTS)},
                    "datatype": {"enum": ["FP32", "INT64"]},
                    "shape": SHAPE,
                    "parameters": {
                        "type": "object",
                        "description": "present for a binary output",
                        "properties": {"binary_data_size": {"type": "integer"}},
                    },
                    "data": {
                        "type": "array",
                        "description": "flattened in row-major order",
                        "items": {"type": "number"},
                    },
                },
            },
        },
    },
}
REQUEST_EXAMPLES = {
    "flattened": {
        "summary": "two CartPole observations",
        "value": {
            "inputs": [
                {
                    "name": INPUT,
                    "shape": [2, 4],
                    "datatype": "FP32",
                    "data": [0.01, -0.02, 0.03, 0.04, 0, 0, 0, 0],
                }
            ]
        },
    },
    "actions": {
        "summary": "only the action",
        "value": {
            "id": "7",
            "inputs": [
                {"name": INPUT, "shape": [1, 4], "datatype": "FP32", "data": [[0, 0, 0.1, 0]]}
            ],
            "outputs": [{"name": ACTIONS}],
        },
    },
}
RESPONSE_EXAMPLE = {
    "model_name": "cartpole",
    "model_version": "int8",
    "outputs": [
        {"name": Q_VALUES, "datatype": "FP32", "shape": [1, 2], "data": [98.25, 99.5]},
        {"name": ACTIONS, "datatype": "INT64", "shape": [1], "data": [1]},
    ],
}
ERRORS = {
    400: "Invalid request; the message names the field.",
    404: "Unknown model or version; the message lists the known ones.",
    408: "The body did not arrive in time.",
    413: "The body, compressed or decompressed, or the batch exceeds a limit.",
    500: "Internal error.",
    503: "The version's files are broken, or the repository cannot be read; or the queue is full, "
    "or the request was queued for too long: Retry-After then says when to retry.",
}


def infer_operation(names: list[str]) -> dict[str, Any]:
    """The operation for a path with these parameters."""
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]
    length = {
        "name": LENGTH_NAME,
        "in": "header",
        "required": False,
        "schema": {"type": "integer", "minimum": 0},
        "description": "length of the uncompressed JSON if binary tensors follow it; 0 if the body "
        "is the raw input",
    }
    request = {"schema": {"$ref": "#/components/schemas/InferRequest"}}
    response = {"schema": {"$ref": "#/components/schemas/InferAnswer"}, "example": RESPONSE_EXAMPLE}
    binary = {"schema": {"type": "string", "format": "binary"}}
    length_header = {"description": "present if an output is binary", "schema": {"type": "integer"}}
    return {
        "tags": [TAG],
        "summary": "Q-values and actions for observations",
        "description": "The Content-Type of the body is ignored.",
        "operationId": "infer_" + "_".join(names),
        "parameters": [*in_path, length, CONTENT_ENCODING],
        "requestBody": {
            "required": True,
            "content": {JSON: {**request, "examples": REQUEST_EXAMPLES}, BINARY: binary},
        },
        "responses": {
            "200": {
                "description": "Success",
                "headers": {LENGTH_NAME: length_header},
                "content": {JSON: response, BINARY: binary},
            },
            **{str(s): {"description": d, "content": {JSON: FAILURE}} for s, d in ERRORS.items()},
        },
    }
