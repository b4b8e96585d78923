"""The stream's format without an option: parsing of messages, and rendering of responses.

A binary message is the newest frame. A text message is a JSON object with at least one of the keys
`observation` (the newest frame as nested lists, or by part), `reset` and `variant`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from slimq.core.errors import InvalidInputError, ObservationError
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QValues
from slimq_service.api.stream.codec import FIELD, KEYS, MESSAGE, StreamMessage
from slimq_service.decoding.batches_in_json import read_batch
from slimq_service.decoding.nested_lists import check_lists, flatten, kind_of, to_array
from slimq_service.decoding.observations import read_object, read_variant
from slimq_service.errors import LimitError
from slimq_service.http.problems import Problem
from slimq_service.requests.call import Call
from slimq_service.variants.loading import LoadedVariant

MAX_TEXT_BYTES = 64 * 1024
"""Text is parsed in the event loop, where a megabyte would take tens of milliseconds."""


class JsonCodec:
    """The `StreamCodec` of `format=json`."""

    def greet(self, variant: LoadedVariant) -> None:
        """Says nothing: the client speaks first."""

    def read(self, message: Mapping[str, Any], spec: ObservationSpec) -> StreamMessage:
        """See `read_message`."""
        return read_message(message, spec)

    def answer(
        self,
        variant: LoadedVariant,
        q_values: QValues | None,
        call: Call,  # noqa: ARG002
        *,
        superseded: bool,
    ) -> str:
        """See `render_response`."""
        return render_response(variant, q_values, superseded=superseded)

    def refuse(self, problem: Problem, call: Call) -> str:  # noqa: ARG002
        """See `render_problem`."""
        return render_problem(problem)


def read_message(message: Mapping[str, Any], spec: ObservationSpec) -> StreamMessage:
    """Parses an ASGI message of type `websocket.receive`.

    Args:
        message: holds `bytes` or `text`.
        spec: the layout of one frame.

    Raises:
        ObservationError: the frame does not fit the spec.
        MalformedError: the text is not JSON.
        InvalidInputError: a key is unknown or of the wrong type, or there is none.
        LimitError: the text is too long.
    """
    content = message.get("bytes")
    if content is not None:
        return StreamMessage(read_frame(content, spec))
    return _read_text(message["text"].encode(), spec)


def read_frame(content: bytes, spec: ObservationSpec) -> Observations:
    """Reads one frame `(1, *frame)` from raw little-endian bytes, without a copy.

    Raises:
        ObservationError: the length is wrong, or a number is not finite.
    """
    if len(content) != spec.item_bytes:
        expected = f"{spec.item_bytes} bytes ({spec.dtype} {spec.shape})"
        raise ObservationError(MESSAGE, expected, f"{len(content)} bytes")
    return spec.from_bytes(content, MESSAGE)


def render_response(
    variant: LoadedVariant, q_values: QValues | None, *, superseded: bool = False
) -> str:
    """Renders the JSON of a response, without action and Q-values if no frame was run."""
    response: dict[str, Any] = {
        "policy": variant.policy.name,
        "variant": variant.manifest.name,
        "sha256": variant.sha256,
    }
    if q_values is not None:
        row = np.ascontiguousarray(q_values[0])
        (action,) = variant.numbers_of([int(row.argmax())])
        response |= {"action": action, "q_values": row}
    if superseded:
        response["superseded"] = True
    return orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def render_problem(problem: Problem) -> str:
    """Renders a problem document as a response."""
    return orjson.dumps(problem).decode()


def _read_lists(value: Any, spec: ObservationSpec) -> Observations:
    """One frame `(1, *frame)` from nested lists, or from named parts."""
    if spec.parts is not None and isinstance(value, dict):
        return read_batch(value, spec, 1, FIELD)
    numbers = to_array(flatten(value, spec.shape, FIELD), spec)
    return spec.check(numbers.reshape(1, *spec.shape), FIELD)


def _read_text(text: bytes, spec: ObservationSpec) -> StreamMessage:
    if len(text) > MAX_TEXT_BYTES:
        raise LimitError(MESSAGE, MAX_TEXT_BYTES, f"{len(text)} bytes", "bytes of text")
    check_lists(text, spec, 1, FIELD)
    document = read_object(text, KEYS, MESSAGE)
    reset, variant = document.get("reset", False), read_variant(document)
    if not isinstance(reset, bool):
        raise InvalidInputError("reset", "true or false", kind_of(reset))
    if FIELD in document:
        return StreamMessage(_read_lists(document[FIELD], spec), reset, variant)
    if not reset and variant is None:
        expected = f"at least one of {FIELD}, reset and variant"
        raise InvalidInputError(MESSAGE, expected, "none of them")
    return StreamMessage(None, reset, variant)
