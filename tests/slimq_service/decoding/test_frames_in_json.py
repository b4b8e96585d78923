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
from slimq_service.decoding import frames_in_json as digits
from slimq_service.decoding.frames_in_json import PLACEHOLDER, read_frames

SPEC = ObservationSpec(dtype="uint8", shape=(2, 3))
ROWS = [[[0, 1, 2], [30, 40, 50]], [[255, 100, 199], [200, 99, 10]]]


def read(text: str) -> Any:
    found = read_frames(text.encode(), SPEC)
    return None if found is None else (found[0].tolist(), found[1].decode())


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_the_array_is_extracted_and_the_rest_of_the_document_kept(separators: Any) -> None:
    text = json.dumps({"variant": "int8", "observations": ROWS}, separators=separators)
    found = read(text)
    assert found is not None
    assert found[0] == ROWS
    assert json.loads(found[1]) == {"variant": "int8", "observations": PLACEHOLDER}


def whole(array: str | bytes) -> bytes:
    """The only value of an object."""
    return b'{"a":%b}' % (array.encode() if isinstance(array, str) else array)


FRAMES = arrays.arrays(np.uint8, st.tuples(st.integers(1, 4), st.just(2), st.just(3)))


@given(frames=FRAMES, spaced=st.booleans())
def test_every_array_is_read_back(frames: Any, spaced: bool) -> None:
    text = json.dumps(frames.tolist()).encode() if spaced else orjson.dumps(frames.tolist())
    found = read_frames(whole(text), SPEC)
    assert found is not None
    assert found[0].dtype == np.uint8
    np.testing.assert_array_equal(found[0], frames)


def test_a_long_text_is_read_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (50, 2, 3), dtype=np.uint8)
    body = whole(orjson.dumps(frames.tolist()))
    for size in (1, 7, 100, 1000):
        monkeypatch.setattr(digits, "CHUNK_BYTES", size)
        found = read_frames(body, SPEC)
        assert found is not None
        np.testing.assert_array_equal(found[0], frames)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[[[]]]",
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
        "-[[[0,1,2],[3,4,5]]]",
        "0.[[[0,1,2],[3,4,5]]]",
        "[[[0,1,2],[3,4,5]]]e7",
        '"[[[0,1,2],[3,4,5]]]"',
        '[[[0,1,2],[3,4,5]]],"b":[1]',
        f'[[[0,1,2],[3,4,5]]],"b":{PLACEHOLDER}',
    ],
)
def test_other_values_are_left_to_the_json_parser(text: str) -> None:
    assert read_frames(whole(text), SPEC) is None
    assert read(text) is None, "and so is what is no object"


AROUND = st.text(alphabet='ab":,{}[]0.e- \n\t', max_size=12)


@given(before=AROUND, after=AROUND, frames=FRAMES)
def test_the_rest_of_the_document_is_unchanged(before: str, after: str, frames: Any) -> None:
    body = before.encode() + orjson.dumps(frames.tolist()) + after.encode()
    found = read_frames(body, SPEC)
    if found is None:
        return
    try:
        expected = orjson.loads(body)
    except orjson.JSONDecodeError:
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(found[1])
        return
    document = orjson.loads(found[1])
    assert restore(document, found[0].tolist()) == expected


def restore(document: Any, frames: Any) -> Any:
    if isinstance(document, dict):
        return {key: restore(value, frames) for key, value in document.items()}
    return frames if type(document) is int and document == PLACEHOLDER else document


@given(text=st.text(alphabet="[]0123456789, ", max_size=40))
def test_the_numbers_equal_those_of_a_json_parser(text: str) -> None:
    found = read_frames(whole("[[[" + text), SPEC)
    if found is not None:
        assert found[0].tolist() == json.loads("[[[" + text)


def test_other_dtypes_are_left_to_the_json_parser() -> None:
    spec = ObservationSpec(dtype="float32", shape=(3,))
    assert read_frames(b'{"a":[[1,2,3]]}', spec) is None
