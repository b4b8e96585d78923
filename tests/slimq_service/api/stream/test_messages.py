from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimq.core.errors import InvalidInputError, ObservationError, SlimqError
from slimq.core.observation import ObservationSpec
from slimq_service.api.stream.messages import MAX_TEXT_BYTES, read_message, render_response
from slimq_service.errors import LimitError, MalformedError

TINY = ObservationSpec(dtype="float32", shape=(4,))
FRAME = ObservationSpec(dtype="uint8", shape=(2, 3))


def text(content: Any) -> dict[str, Any]:
    written = content if isinstance(content, str) else json.dumps(content)
    return {"type": "websocket.receive", "text": written}


def raw(content: bytes) -> dict[str, Any]:
    return {"type": "websocket.receive", "bytes": content}


def test_a_frame_is_read_from_bytes_without_a_copy_and_from_lists_alike() -> None:
    numbers = [[1, 2, 3], [4, 5, 255]]
    content = bytes([1, 2, 3, 4, 5, 255])
    parsed = read_message(raw(content), FRAME)
    assert parsed.frame is not None
    assert parsed.frame.tolist() == [numbers]
    assert np.shares_memory(parsed.frame, np.frombuffer(content, np.uint8))
    assert (parsed.reset, parsed.variant) == (False, None)
    again = read_message(text({"observation": numbers}), FRAME)
    assert again.frame is not None
    assert again.frame.tolist() == [numbers]
    assert again.frame.dtype == np.uint8


def test_servers_may_name_both_kinds_of_content() -> None:
    both = {"type": "websocket.receive", "bytes": None, "text": '{"reset": true}'}
    assert read_message(both, FRAME).reset
    assert read_message({**raw(bytes(6)), "text": None}, FRAME).frame is not None


def test_an_object_may_have_any_of_the_keys() -> None:
    parsed = read_message(
        text({"observation": [0, 1, 2, 3.5], "reset": True, "variant": "a"}), TINY
    )
    assert parsed.frame is not None
    assert parsed.frame.tolist() == [[0, 1, 2, 3.5]]
    assert (parsed.reset, parsed.variant) == (True, "a")
    parsed = read_message(text({"variant": "a"}), TINY)
    assert (parsed.frame, parsed.reset, parsed.variant) == (None, False, "a")
    parsed = read_message(text({"reset": True, "variant": None}), TINY)
    assert (parsed.frame, parsed.reset, parsed.variant) == (None, True, None)
    assert read_message(text({"observation": [0] * 4, "reset": False}), TINY).reset is False


BAD = [
    (raw(b""), TINY, ObservationError, r"^message: expected 16 bytes .*, received 0 bytes"),
    (raw(bytes(15)), TINY, ObservationError, "received 15 bytes"),
    (raw(bytes(32)), TINY, ObservationError, r"16 bytes \(float32 \(4,\)\), received 32 bytes"),
    (raw(np.float32([0, 0, np.nan, 0]).tobytes()), TINY, ObservationError, "message.*nan"),
    (raw(np.float32([0, 0, 0, -np.inf]).tobytes()), TINY, ObservationError, "message.*-inf"),
    (text(""), TINY, MalformedError, "^message: expected valid JSON"),
    (text("reset"), TINY, MalformedError, "^message: expected valid JSON"),
    (text('{"observation": [0, 0'), TINY, MalformedError, "^observation: expected valid JSON"),
    (text('{"observation": [0, NaN, 0, 0]}'), TINY, ObservationError, "^observation: .*NaN"),
    (text('{"observation": [0, 1e999, 0, 0]}'), TINY, SlimqError, "^observation: "),
    (text('{"observation": [0, 1e300, 0, 0]}'), TINY, ObservationError, "a finite float32"),
    (
        text({"observation": [0, 0, 0]}),
        TINY,
        ObservationError,
        "of 4 numbers, received a list of 3 el",
    ),
    (text({"observation": [[0, 0, 0, 0]]}), TINY, ObservationError, "a list of 1 element$"),
    (text({"observation": {"0": 0, "1": 1}}), TINY, ObservationError, "typed array"),
    (text({"0": 0, "1": 1}), TINY, InvalidInputError, "^message: .*typed array"),
    (text({"observation": [0, "0", 0, 0]}), TINY, ObservationError, r"observation\[1\].*string"),
    (text({"observation": [0, True, 0, 0]}), TINY, ObservationError, r"observation\[1\].*true"),
    (text({"observation": 7}), TINY, ObservationError, "the number 7"),
    (text({"observation": None}), TINY, ObservationError, "null"),
    (text({"observation": [[0, 0, 256], [0, 0, 0]]}), FRAME, ObservationError, "256"),
    (text({"observation": [[0, 0, 0.5], [0, 0, 0]]}), FRAME, ObservationError, "0.5"),
    (text("{}"), TINY, InvalidInputError, "at least one of observation, reset and variant"),
    (text({"reset": False}), TINY, InvalidInputError, "at least one of"),
    (text({"variant": None}), TINY, InvalidInputError, "at least one of"),
    (text("[]"), TINY, InvalidInputError, "^message: expected a JSON object"),
    (text("null"), TINY, InvalidInputError, "^message: .*null"),
    (text({"reset": 1}), TINY, InvalidInputError, "^reset: expected true or false"),
    (text({"reset": "true"}), TINY, InvalidInputError, "^reset: expected true or false"),
    (text({"reset": None}), TINY, InvalidInputError, "^reset: .*null"),
    (text({"variant": 8}), TINY, InvalidInputError, "^variant: expected the name"),
    (text({"variant": "x" * 65}), TINY, InvalidInputError, "^variant: .*65 characters"),
    (text({"rest": True}), TINY, InvalidInputError, "'rest', did you mean 'reset'"),
    (text({"observation": [0] * 4, "x": 1}), TINY, InvalidInputError, "received 'x'"),
    (text('"' + "x" * MAX_TEXT_BYTES + '"'), TINY, LimitError, "^message: .*bytes of text"),
    (text('{"observation":' + "[" * 9000 + "]" * 9000 + "}"), TINY, LimitError, "^observation"),
]


@pytest.mark.parametrize(("message", "spec", "kind", "words"), BAD)
def test_errors_in_messages_name_the_field(
    message: Any, spec: ObservationSpec, kind: type[SlimqError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        read_message(message, spec)


@given(st.binary(max_size=40) | st.text(max_size=40))
def test_random_messages_are_parsed_or_refused(content: bytes | str) -> None:
    message = raw(content) if isinstance(content, bytes) else text(content)
    with contextlib.suppress(SlimqError):
        parsed = read_message(message, TINY)
        assert parsed.frame is not None
        assert parsed.frame.shape == (1, 4)


def test_a_response_has_action_and_q_values_if_there_was_a_frame() -> None:
    variant: Any = SimpleNamespace(
        policy=SimpleNamespace(name="tiny"),
        manifest=SimpleNamespace(name="fp32"),
        sha256="ab",
        numbers_of=lambda actions: [action + 5 for action in actions],
    )
    q_values = np.array([[0.1, 2.5], [9, 9]], np.float32)[:1]
    said = {"policy": "tiny", "variant": "fp32", "sha256": "ab"}
    answer = json.loads(render_response(variant, q_values))
    assert answer == {**said, "action": 6, "q_values": [0.1, 2.5]}
    assert np.array(answer["q_values"], np.float32).tobytes() == q_values.tobytes()
    assert json.loads(render_response(variant, None)) == said
