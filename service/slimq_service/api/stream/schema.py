"""The stream endpoint in the OpenAPI document, as a GET: OpenAPI cannot describe WebSockets."""

from __future__ import annotations

from typing import Any

from slimq_service.api.stream.options import CHOICES
from slimq_service.http.problems import MEDIA_TYPE
from slimq_service.requests.routing import KEY_HEADER, MAX_KEY_BYTES

DESCRIPTION = """A WebSocket: the server keeps the frame stack, and each message gets one response.

A binary message is the newest frame as raw little-endian bytes, or the whole observation if the
policy does not stack frames. A text message is a JSON object with at least one of `observation`
(the same as nested lists, or an object with one list per part), `reset` (true to begin an episode)
and `variant` (the variant to use from now on). The response has `policy`, `variant`, `sha256` and,
if the message had a frame, `action` and `q_values`. Otherwise it is a problem document, and the
message had no effect. With `format=msgpack`, the server first sends a description of the policy;
messages and answers are MessagePack, with arrays as clients of openpi encode them."""
PARAMETERS = {
    "format": "format of messages and answers",
    "keep": "`newest`: an observation is answered with `superseded` instead of an action if a "
    "newer one has arrived before it is run",
    "errors": "`text`: problem documents are text messages in JSON, whatever the format",
}
PROBLEMS = {
    400: "Path and query name different variants.",
    403: "A page of another site opened the stream.",
    404: "Unknown policy or variant; `available` lists the known ones.",
    413: "The routing key is too long.",
    422: "The query has an unknown parameter or value.",
    426: "The request is not a WebSocket handshake.",
    500: "Internal error.",
    503: "The variant's files are broken, or the repository cannot be read; or all streams are in "
    "use, or the service is shutting down: Retry-After then says when to retry.",
}


def stream_operation(names: list[str]) -> dict[str, Any]:
    """The operation for a path with these parameters."""
    text: dict[str, Any] = {"type": "string"}
    by_query = {
        "name": "variant",
        "in": "query",
        "required": False,
        "schema": text,
        "description": "the initial variant; may also be given in the path",
    }
    options = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": {**text, "enum": list(CHOICES[name]), "default": CHOICES[name][0]},
            "description": description,
        }
        for name, description in PARAMETERS.items()
    ]
    by_key = {
        "name": KEY_HEADER,
        "in": "header",
        "required": False,
        "schema": {**text, "maxLength": MAX_KEY_BYTES},
        "description": "streams with the same key go to the same variant, if they name none and "
        "the policy has weights; a stream without a key stays with a random one",
    }
    in_path = [{"name": n, "in": "path", "required": True, "schema": text} for n in names]
    problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        "tags": ["stream"],
        "summary": "A control loop over WebSocket",
        "description": DESCRIPTION,
        "operationId": "stream_" + "_".join(names),
        "parameters": [*in_path, by_query, *options, by_key],
        "responses": {
            "101": {"description": "Stream opened"},
            **{str(s): {"description": d, "content": problem} for s, d in PROBLEMS.items()},
        },
    }
