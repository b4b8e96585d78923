from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from slimq.core.observation import ObservationSpec
from slimq_service.digits import read_frames

SPEC = ObservationSpec(dtype="uint8", shape=(2, 3))
ROWS = [[[0, 1, 2], [30, 40, 50]], [[255, 100, 199], [200, 99, 10]]]


def read(text: str) -> Any:
    found = read_frames(text.encode(), SPEC)
    return None if found is None else (found[0].tolist(), found[1].decode())


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_the_array_and_what_is_left_of_the_document(separators: Any) -> None:
    document = {"variant": "int8", "observations": ROWS}
    text = json.dumps(document, separators=separators)
    colon = separators[1]
    rest = f'{{"variant"{colon}"int8"{separators[0]}"observations"{colon}0}}'
    assert read(text) == (ROWS, rest)
    assert read(json.dumps(ROWS)) == (ROWS, "0")


@given(
    frames=arrays.arrays(np.uint8, st.tuples(st.integers(1, 4), st.just(2), st.just(3))),
    spaced=st.booleans(),
)
def test_every_array_is_read_back(frames: Any, spaced: bool) -> None:
    text = json.dumps(frames.tolist()).encode() if spaced else orjson.dumps(frames.tolist())
    found = read_frames(text, SPEC)
    assert found is not None
    assert found[0].dtype == np.uint8
    np.testing.assert_array_equal(found[0], frames)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[[[]]]",
        "{}",
        "]]][[[",
        "[[[0,1,2],[3,4,5]]",
        "[[[0,1,2],[3,4,5]]]]",
        "[[[0,1,2],[3,4]]]",
        "[[[0,1,2],[3,4,5,6]]]",
        "[[0,1,2],[3,4,5]]",
        "[[[0,1,2],[3,4,256]]]",
        "[[[0,1,2],[3,4,1255]]]",
        "[[[0,1,2],[3,4,05]]]",
        "[[[0,1,2],[3,4,00]]]",
        "[[[0,1,2],[3,4,-5]]]",
        "[[[0,1,2],[3,4,5.0]]]",
        "[[[0,1,2],[3,4,5e0]]]",
        "[[[0,1,2],[3,4,true]]]",
        '[[[0,1,2],[3,4,"5"]]]',
        "[[[0,1,2],[3,4 5]]]",
        "[[[0,1,2],[3,4,1 5]]]",
        "[[[0,1,2],[3, 4,  5]]]",
        "[[[0,1,2],[3,4,5 ]]]",
        "[[[0,1,2],[3,4,]5]]",
        "[[[0,1,2,],[3,4]]]",
        "[[[0,1,],2[3,4,5]]]",
        "[[[0,1,2]3,[,4,5]]]",
        "[ [[0,1,2],[3,4,5]]]",
        "[[[0,1,2],\n[3,4,5]]]",
        "[[[0,1,2],[3,4,\u0665]]]",
        '{"a": [[[0,1,2],[3,4,5]]], "b": [1]}',
    ],
)
def test_what_is_no_such_array_is_left_to_others(text: str) -> None:
    assert read(text) is None


@given(text=st.text(alphabet="[]0123456789, ", max_size=40))
def test_what_is_read_is_what_json_says(text: str) -> None:
    text = "[[[" + text
    found = read(text)
    if found is not None:
        assert found[0] == json.loads(text)


def test_numbers_of_other_types_are_left_to_others() -> None:
    spec = ObservationSpec(dtype="float32", shape=(3,))
    assert read_frames(b"[[1,2,3]]", spec) is None
