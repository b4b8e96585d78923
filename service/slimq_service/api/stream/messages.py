"""What the messages of a stream say, and what they are answered with.

A binary message is the newest frame. A text message is a JSON object with at least one of the keys
`observation` (the newest frame as nested lists), `reset` and `variant`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from slimq.core.errors import InvalidInputError, ObservationError
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QValues
from slimq_service.decoding.nested_lists import check_lists, flatten, kind_of, to_array
from slimq_service.decoding.observations import read_object, read_variant
from slimq_service.errors import LimitError
from slimq_service.http.problems import Problem
from slimq_service.variants.loading import LoadedVariant

FIELD = "observation"
KEYS = (FIELD, "reset", "variant")
MESSAGE = "message"
MAX_TEXT_BYTES = 64 * 1024
"""Of a text message: it is read on the event loop, where a megabyte would take tens of
milliseconds."""


@dataclass(frozen=True)
class Asked:
    """What a message asks for.

    Attributes:
        frame: `(1, *frame)`, the newest one, None where the message brings none.
        reset: whether an episode begins, before the frame.
        variant: who is to answer from now on, None where that stays as it is.
    """

    frame: Observations | None = None
    reset: bool = False
    variant: str | None = None


def read_message(message: Mapping[str, Any], spec: ObservationSpec) -> Asked:
    """What an ASGI message of type `websocket.receive` asks for.

    Args:
        message: has `bytes` or `text`.
        spec: the layout of one frame.

    Raises:
        ObservationError: the frame does not fit the spec.
        MalformedError: the text is not JSON.
        InvalidInputError: a key is unknown, of the wrong type, or none is there.
        LimitError: the text is too long.
    """
    content = message.get("bytes")
    if content is not None:
        return Asked(read_frame(content, spec))
    return _read_text(message["text"].encode(), spec)


def read_frame(content: bytes, spec: ObservationSpec) -> Observations:
    """One frame `(1, *frame)` from raw little-endian bytes, without a copy.

    Raises:
        ObservationError: it has another length, or numbers that are not finite.
    """
    if len(content) != spec.item_bytes:
        expected = f"{spec.item_bytes} bytes ({spec.dtype} {spec.shape})"
        raise ObservationError(MESSAGE, expected, f"{len(content)} bytes")
    return spec.from_bytes(content, MESSAGE)


def render_answer(variant: LoadedVariant, q_values: QValues | None) -> str:
    """The answer's JSON, without action and Q-values where no frame was sent."""
    answer: dict[str, Any] = {
        "policy": variant.policy.name,
        "variant": variant.manifest.name,
        "sha256": variant.sha256,
    }
    if q_values is not None:
        row = np.ascontiguousarray(q_values[0])
        answer |= {"action": int(row.argmax()), "q_values": row}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def render_problem(problem: Problem) -> str:
    """A problem document as the answer."""
    return orjson.dumps(problem).decode()


def _read_text(text: bytes, spec: ObservationSpec) -> Asked:
    if len(text) > MAX_TEXT_BYTES:
        raise LimitError(MESSAGE, MAX_TEXT_BYTES, f"{len(text)} bytes", "bytes of text")
    check_lists(text, spec, 1, FIELD)
    document = read_object(text, KEYS, MESSAGE)
    reset, variant = document.get("reset", False), read_variant(document)
    if not isinstance(reset, bool):
        raise InvalidInputError("reset", "true or false", kind_of(reset))
    if FIELD in document:
        numbers = to_array(flatten(document[FIELD], spec.shape, FIELD), spec)
        return Asked(spec.check(numbers.reshape(1, *spec.shape), FIELD), reset, variant)
    if not reset and variant is None:
        expected = f"at least one of {FIELD}, reset and variant"
        raise InvalidInputError(MESSAGE, expected, "none of them")
    return Asked(None, reset, variant)
