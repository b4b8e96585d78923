"""What the document of the interface says about inference, which FastAPI does not see."""

from __future__ import annotations

from typing import Any

from slimq_service.api.v2.documents import TAG
from slimq_service.api.v2.framing import LENGTH_NAME
from slimq_service.api.v2.tensors import ACTIONS, INPUT, OUTPUTS, Q_VALUES
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
    "description": "how the body is compressed; limits hold for what it decompresses to as well",
}
PARAMETERS = {
    "type": "object",
    "description": "those that are not listed are tolerated",
    "additionalProperties": True,
}
REQUEST: dict[str, Any] = {
    "type": "object",
    "description": "Keys that are not listed are tolerated.",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string", "description": "is repeated in the answer"},
        "parameters": {
            **PARAMETERS,
            "properties": {
                "binary_data_output": {
                    "type": "boolean",
                    "default": False,
                    "description": "whether outputs that do not say so themselves are binary",
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
                    "shape": {**SHAPE, "description": "the batch, then the model's own shape"},
                    "datatype": {"enum": ["UINT8", "FP32"], "description": "the model's own"},
                    "parameters": {
                        **PARAMETERS,
                        "properties": {
                            "binary_data_size": {
                                "type": "integer",
                                "minimum": 0,
                                "description": "bytes of the tensor, which follows the JSON; "
                                "there is no `data` then",
                            }
                        },
                    },
                    "data": {
                        "type": "array",
                        "description": "numbers, nested by shape or flattened row by row",
                        "items": {},
                    },
                },
            },
        },
        "outputs": {
            "type": "array",
            "description": "which outputs are wanted; all where there is no such key",
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
ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string", "description": "which variant answered"},
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
                        "description": "of a binary output",
                        "properties": {"binary_data_size": {"type": "integer"}},
                    },
                    "data": {
                        "type": "array",
                        "description": "flattened, row by row",
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
        "summary": "the action alone",
        "value": {
            "id": "7",
            "inputs": [
                {"name": INPUT, "shape": [1, 4], "datatype": "FP32", "data": [[0, 0, 0.1, 0]]}
            ],
            "outputs": [{"name": ACTIONS}],
        },
    },
}
ANSWER_EXAMPLE = {
    "model_name": "cartpole",
    "model_version": "int8",
    "outputs": [
        {"name": Q_VALUES, "datatype": "FP32", "shape": [1, 2], "data": [98.25, 99.5]},
        {"name": ACTIONS, "datatype": "INT64", "shape": [1], "data": [1]},
    ],
}
ERRORS = {
    400: "The request is wrong; the message names the field.",
    404: "Unknown model or version; the message lists what there is.",
    408: "The body did not arrive in time.",
    413: "The body, as sent or decompressed, or the batch is over the limit.",
    500: "A mistake of the service.",
    503: "The version's files are broken, the repository cannot be read, too much waits already, "
    "or the request's turn did not come in time: Retry-After says when to come again after the "
    "last two.",
}


def infer_operation(names: list[str]) -> dict[str, Any]:
    """The operation with these names in its path."""
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]
    length = {
        "name": LENGTH_NAME,
        "in": "header",
        "required": False,
        "schema": {"type": "integer", "minimum": 0},
        "description": "bytes of the JSON, before compression, where tensors follow it; 0 where "
        "the whole body is the input's bytes",
    }
    request = {"schema": {"$ref": "#/components/schemas/InferRequest"}}
    answer = {"schema": {"$ref": "#/components/schemas/InferAnswer"}, "example": ANSWER_EXAMPLE}
    binary = {"schema": {"type": "string", "format": "binary"}}
    given = {"description": "where an output is binary", "schema": {"type": "integer"}}
    return {
        "tags": [TAG],
        "summary": "Q-values and actions of observations",
        "description": "A body may have any Content-Type or none.",
        "operationId": "infer_" + "_".join(names),
        "parameters": [*in_path, length, CONTENT_ENCODING],
        "requestBody": {
            "required": True,
            "content": {JSON: {**request, "examples": REQUEST_EXAMPLES}, BINARY: binary},
        },
        "responses": {
            "200": {
                "description": "The outputs",
                "headers": {LENGTH_NAME: given},
                "content": {JSON: answer, BINARY: binary},
            },
            **{str(s): {"description": d, "content": {JSON: FAILURE}} for s, d in ERRORS.items()},
        },
    }
