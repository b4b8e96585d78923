"""The stream endpoint in the OpenAPI document, which has no words for WebSockets: as a GET."""

from __future__ import annotations

from typing import Any

from slimq_service.http.problems import MEDIA_TYPE
from slimq_service.requests.routing import KEY_HEADER, LONGEST_KEY

DESCRIPTION = """A WebSocket: the server keeps the frames, and each message gets one answer.

A binary message is the newest frame as raw little-endian bytes, or the whole observation where none
are stacked. A text message is a JSON object with `observation` (the same as nested lists), `reset`
(true: an episode begins) and `variant` (who answers from now on), at least one of them. The answer
has `policy`, `variant`, `sha256` and, where there was a frame, `action` and `q_values`; or it is a
problem document, and the message has changed nothing."""
PROBLEMS = {
    400: "Path and query name different variants.",
    403: "A browser asks for it from a page of another site.",
    404: "Unknown policy or variant; `available` lists what there is.",
    413: "The routing key is too long.",
    422: "The query has another parameter than `variant`.",
    426: "The request asks for no WebSocket.",
    500: "A mistake of the service.",
    503: "All streams are in use or the service is shutting down (Retry-After says when to retry); "
    "or the variant's files are broken, or the repository cannot be read.",
}


def stream_operation(names: list[str]) -> dict[str, Any]:
    """The operation of a path with these names in it."""
    text: dict[str, Any] = {"type": "string"}
    by_query = {
        "name": "variant",
        "in": "query",
        "required": False,
        "schema": text,
        "description": "which variant answers first; it may also be named by path",
    }
    by_key = {
        "name": KEY_HEADER,
        "in": "header",
        "required": False,
        "schema": {**text, "maxLength": LONGEST_KEY},
        "description": "streams of one key go to one variant, where none is named and the policy "
        "has weights; a stream without one stays with what it drew",
    }
    in_path = [{"name": n, "in": "path", "required": True, "schema": text} for n in names]
    problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        "tags": ["stream"],
        "summary": "A control loop over WebSocket",
        "description": DESCRIPTION,
        "operationId": "stream_" + "_".join(names),
        "parameters": [*in_path, by_query, by_key],
        "responses": {
            "101": {"description": "The stream is open"},
            **{str(s): {"description": d, "content": problem} for s, d in PROBLEMS.items()},
        },
    }
