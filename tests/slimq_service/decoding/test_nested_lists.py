from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from slimq.core.errors import ObservationError
from slimq.core.observation import ObservationSpec
from slimq_service.decoding.nested_lists import (
    BUFFER,
    SEARCHED_BYTES,
    SPARE_LISTS,
    TYPED_ARRAY,
    check_count,
    check_lists,
    flatten,
    kind_of,
    load_json,
    to_array,
)
from slimq_service.errors import LimitError, MalformedError

FLOATS = ObservationSpec(dtype="float32", shape=(4,))
FRAMES = ObservationSpec(dtype="uint8", shape=(2, 3, 3))


def test_lists_are_flattened_row_by_row() -> None:
    assert flatten([[1, 2], [3, 4]], (2, 2), "x") == [1, 2, 3, 4]
    assert flatten([5, 6.5], (2,), "x") == [5, 6.5]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1, 2], [3]], r"x\[1\]: expected a list of 2 numbers, received a list of 1 element$"),
        ([[1, 2]], r"x: expected a list of 2 lists, received a list of 1 element$"),
        ([[1, 2], 3], r"x\[1\]: expected a list of 2 numbers, received the number 3"),
        (
            [[1, 2], {"0": 3, "1": 4}],
            r'x\[1\]: .*received an object with the keys "0", "1" \(a Jav',
        ),
        ([[1, 2], ["3", 4]], r"x\[1\]\[0\]: expected a number, received the string '3'"),
        ([[1, 2], [3, None]], r"x\[1\]\[1\]: expected a number, received null"),
        ([[1, True], [3, 4]], r"x\[0\]\[1\]: expected a number, received true"),
        ([[1, [2]], [3, 4]], r"x\[0\]\[1\]: expected a number, received a list"),
    ],
)
def test_errors_name_the_element(value: Any, message: str) -> None:
    with pytest.raises(ObservationError, match=message):
        flatten(value, (2, 2), "x")


def test_whole_numbers_in_range_become_bytes() -> None:
    assert to_array([0, 255], FRAMES).dtype == np.uint8
    assert to_array([0, 256], FRAMES).dtype == np.float64, "the spec names the value"
    assert to_array([0, 0.5], FRAMES).dtype == np.float64
    assert to_array([0, 1], FLOATS).dtype == np.float64


def test_far_too_many_lists_are_refused_without_parsing() -> None:
    most = 10 * 9 + SPARE_LISTS  # an observation is a list of two lists of three lists
    check_lists(b"[" * most, FRAMES, 10, "x")
    with pytest.raises(LimitError, match=r"x: expected at most 10 observations"):
        check_lists(b"[" * (most + 1), FRAMES, 10, "x")


def test_far_too_many_keys_hint_at_a_typed_array() -> None:
    keys = {str(i): 0 for i in range(10 * 9 + SPARE_LISTS)}
    body = json.dumps({"x": keys}).encode()
    with pytest.raises(LimitError, match=r"objects and keys \(a JavaScript typed array\?"):
        check_lists(body, FRAMES, 10, "x")


@pytest.mark.parametrize("content", [b"1,", b'"ab",', b"1,\n"])
def test_far_too_many_values_are_refused_without_parsing(content: bytes) -> None:
    most = 10 * 4 + SPARE_LISTS
    check_lists(b"[" + content * (most // len(content)), FLOATS, 10, "x")
    with pytest.raises(LimitError, match=r"x: expected at most 10 observations, received a body"):
        check_lists(b"[" + content * (most + 1), FLOATS, 10, "x")


def test_a_full_batch_is_within_the_limit_of_values() -> None:
    for spec in (FLOATS, FRAMES):
        body = json.dumps({"observations": np.zeros((3000, *spec.shape)).tolist()}).encode()
        check_lists(body, spec, 3000, "x")


def test_a_batch_over_the_limit_is_refused() -> None:
    check_count(10, 10, "x")
    with pytest.raises(LimitError, match=r"x: expected at most 10 observations, received 11"):
        check_count(11, 10, "x")


def test_a_json_error_names_the_key_before_it() -> None:
    assert load_json(b'{"a": [1]}', ("a", "b")) == {"a": [1]}
    with pytest.raises(ObservationError, match=r"^b: expected finite numbers, received NaN at"):
        load_json('{"ä": 1, "a": 1, "b": [NaN]}'.encode(), ("a", "b"))
    with pytest.raises(MalformedError, match=r"^a: expected valid JSON"):
        load_json(b'{"a": [1', ("a", "b"))
    with pytest.raises(MalformedError, match=r"^body: expected valid JSON"):
        load_json(b'{"c": [1', ("a", "b"))


def test_a_json_error_at_the_end_of_a_long_body_is_located() -> None:
    """Only its ends are searched, and nothing of it is decoded."""
    numbers = b"1," * SEARCHED_BYTES
    with pytest.raises(ObservationError, match=rf"^a: .* -Infinity at byte {6 + len(numbers)}$"):
        load_json(b'{"a":[' + numbers + b"-Infinity]}", ("a", "b"))
    text = '{"é":1,"a":['.encode() + numbers
    with pytest.raises(ObservationError, match=rf"^b: .* nan at byte {len(text) + 7}$"):
        load_json(text + b'1],"b":nan}', ("a", "b"))


def test_invalid_utf_8_is_refused_as_json() -> None:
    with pytest.raises(MalformedError, match=r"^body: expected valid JSON"):
        load_json(b"\xff" * 10**6, ("a",))
    with pytest.raises(MalformedError, match=r"^a: expected valid JSON"):
        load_json('{"a": "é'.encode(), ("a",))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"),
        (True, "true"),
        ("x" * 99, f"the string '{'x' * 40}'… (99 characters)"),
        ([1, 2], "a list of 2 elements"),
        ([1], "a list of 1 element"),
        ({}, "an empty object"),
        ({"a": 1}, 'an object with the key "a"'),
        ({"a": 1, 'b"\n': 1}, r'an object with the keys "a", "b\"\n"'),
        ({"x" * 99: 1, "b": 1, "c": 1}, f'an object with the keys "{"x" * 40}", "b", …'),
        ({"0": 1}, f'an object with the key "0" ({TYPED_ARRAY})'),
        ({"0": 1, "1": 1, "2": 1}, f'an object with the keys "0", "1", … ({TYPED_ARRAY})'),
        ({"0": 1, "2": 1}, 'an object with the keys "0", "2"'),
        ({"type": "Buffer", "data": []}, f'an object with the keys "type", "data" ({BUFFER})'),
        (1.5, "the number 1.5"),
    ],
)
def test_values_are_described_in_a_few_words(value: Any, words: str) -> None:
    assert kind_of(value) == words
