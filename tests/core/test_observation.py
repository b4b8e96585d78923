"""Observations: golden vectors pin the layout, and nothing else passes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from parts import SPECS
from slimq.core.calibration import CalibrationSet
from slimq.core.errors import ObservationError
from slimq.core.observation import FrameStack, ObservationSpec

TINY = ObservationSpec(dtype="float32", shape=(4,))
FRAMES = ObservationSpec(dtype="uint8", shape=(2, 2, 3), low=0, high=255, stack=FrameStack(count=2))
GOLDEN_FLOATS = bytes.fromhex("0000803f000000c00000003f00000000")
GOLDEN_FRAMES = bytes.fromhex("000102030405060708090aff")


def test_golden_vector_of_float32() -> None:
    batch = TINY.from_bytes(GOLDEN_FLOATS)
    assert batch.tolist() == [[1.0, -2.0, 0.5, 0.0]]
    assert TINY.check(np.array([1, -2, 0.5, 0])).tobytes() == GOLDEN_FLOATS
    assert TINY.check(np.array([1, -2, 0.5, 0], ">f4")).tobytes() == GOLDEN_FLOATS


def test_golden_vector_of_uint8_frames_oldest_first() -> None:
    batch = FRAMES.from_bytes(GOLDEN_FRAMES)
    assert batch.tolist() == [[[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 255]]]]
    assert FRAMES.check(batch.astype(np.int64)).tobytes() == GOLDEN_FRAMES


def test_sizes_are_per_observation() -> None:
    assert (TINY.size, TINY.item_bytes) == (4, 16)
    assert (FRAMES.size, FRAMES.item_bytes) == (12, 12)
    assert TINY.numpy_dtype.str == "<f4"


def test_a_single_observation_becomes_a_batch_of_one() -> None:
    assert TINY.check(np.zeros(4, np.float32)).shape == (1, 4)
    assert FRAMES.check(np.zeros((2, 2, 3), np.uint8)).shape == (1, 2, 2, 3)


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.just(4)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
def test_float_batches_pass_unchanged_and_without_a_copy(batch: Any) -> None:
    checked = TINY.check(batch)
    assert np.shares_memory(checked, batch)
    assert TINY.from_bytes(batch.tobytes()).tobytes() == checked.tobytes() == batch.tobytes()


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.just(2), st.just(2), st.just(3))))
def test_frames_pass_as_any_dtype_that_holds_them(batch: Any) -> None:
    for dtype in (np.uint8, np.int16, np.int64, np.uint64, np.float32, np.float64):
        checked = FRAMES.check(batch.astype(dtype))
        assert checked.dtype == np.uint8
        assert (checked == batch).all()
    assert np.shares_memory(FRAMES.check(batch), batch)


def test_a_batch_that_is_not_contiguous_becomes_so() -> None:
    batch = np.zeros((4, 8), np.float32)[:, ::2]
    assert TINY.check(batch).flags.c_contiguous


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 5)), r"observations: expected shape \(batch, 4\), received shape \(2, 5\)"),
        (np.zeros(()), r"received shape \(\)"),
        (np.zeros((1, 1, 4)), r"received shape \(1, 1, 4\)"),
        (np.zeros((0, 4)), "expected a batch of at least 1, received an empty batch"),
        (
            np.array([[1, 2, 3, 4], [1, 2, np.nan, np.inf]]),
            r"observations\[1\]\[2\]: expected a finite float32, received nan$",
        ),
        (np.array([1, 2, -np.inf, 0]), r"observations\[0\]\[2\]: .*received -inf$"),
        (np.array([[1e300, 0, 0, 0]]), r"observations\[0\]\[0\]: .*received 1e\+300$"),
        (np.array([["a"] * 4]), "expected numbers, received dtype <U1"),
        (np.array([[None] * 4]), "expected numbers, received dtype object"),
        (np.array([[True] * 4]), "expected numbers, received dtype bool"),
        (np.zeros((1, 4), complex), "expected numbers, received dtype complex128"),
    ],
)
def test_floats_that_break_a_rule_are_refused(array: Any, message: str) -> None:
    with pytest.raises(ObservationError, match=message):
        TINY.check(array)


@pytest.mark.parametrize("wrong", [-1, 256, 0.5, np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_value_outside_a_byte_is_refused_and_quoted(wrong: float, dtype: Any) -> None:
    array = np.zeros((1, 2, 2, 3), dtype)
    array[0, 1, 0, 2] = wrong
    place = r"^observations\[0\]\[1\]\[0\]\[2\]: "
    with pytest.raises(ObservationError, match=place + "expected integers .*, received a value of"):
        FRAMES.check(array)


@pytest.mark.parametrize("dtype", [bool, "U1", object, complex])
def test_frames_of_another_kind_are_refused(dtype: Any) -> None:
    with pytest.raises(ObservationError, match="integers from 0 to 255, received dtype"):
        FRAMES.check(np.zeros((1, 2, 2, 3), dtype))


@given(st.binary(max_size=100))
def test_a_body_of_the_wrong_length_is_refused_with_its_length(body: bytes) -> None:
    if body and len(body) % 12 == 0:
        assert FRAMES.from_bytes(body).tobytes() == body
        assert FRAMES.from_bytes(memoryview(body)).shape == (len(body) // 12, 2, 2, 3)
    else:
        message = f"body: expected a positive multiple of 12 bytes .*, received {len(body)} bytes"
        with pytest.raises(ObservationError, match=message):
            FRAMES.from_bytes(body)


def test_bytes_that_hold_nan_are_refused_and_the_field_is_named() -> None:
    body = np.full(4, np.nan, np.float32).tobytes()
    with pytest.raises(ObservationError, match=r"inputs\[0\]\[0\]: expected a finite"):
        TINY.from_bytes(body, field="inputs")


def test_raw_bytes_are_read_without_a_copy() -> None:
    body = bytes(24)
    view = np.frombuffer(body, np.uint8)
    assert np.shares_memory(FRAMES.from_bytes(body), view)


@pytest.mark.parametrize(
    "changes", [{"dtype": "int8"}, {"shape": ()}, {"shape": (1,) * 9}, {"colour": 1}]
)
def test_an_impossible_layout_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ObservationSpec.model_validate({"dtype": "uint8", "shape": (4,), **changes})


@pytest.mark.parametrize("shape", [(0,), (-1,), (4, 0, 84)])
def test_a_shape_without_numbers_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        ObservationSpec(dtype="uint8", shape=shape)


LAYOUTS = [
    ((4, 84, 84), 0, 4, (84, 84)),
    ((84, 84, 4), 2, 4, (84, 84)),
    ((84, 84, 12), 2, 4, (84, 84, 3)),
    ((6, 5), 0, 3, (2, 5)),
    ((3,), 0, 3, (1,)),
    ((1, 2), 0, 1, (2,)),
]


@pytest.mark.parametrize(("shape", "axis", "count", "frame"), LAYOUTS)
def test_frames_pushed_one_by_one_match_the_calibration_sets_layout(
    shape: tuple[int, ...], axis: int, count: int, frame: tuple[int, ...]
) -> None:
    spec = ObservationSpec(dtype="uint8", shape=shape, stack=FrameStack(axis=axis, count=count))
    assert (spec.frame.shape, spec.frame.dtype, spec.frame.stack) == (frame, "uint8", None)
    frames = np.random.default_rng(0).integers(1, 256, (count + 2, *frame), dtype=np.uint8)
    rows = np.arange(count + 2)[:, None] + np.arange(1 - count, 1)[None, :]
    calibration = CalibrationSet(frames, np.maximum(rows, -1).astype(np.int32), np.zeros((1, 1)))
    observation = spec.padding()
    assert observation.shape == (1, *shape)
    assert not observation.any()
    for step, expected in enumerate(calibration.observations(spec)):
        before = observation.copy()
        pushed = spec.push(observation, frames[step][np.newaxis])
        assert (observation == before).all(), "what was there before stays as it was"
        assert (pushed[0] == expected).all()
        assert pushed.flags.c_contiguous
        observation = pushed


def test_without_a_stack_the_new_frame_is_the_observation() -> None:
    assert TINY.frame is TINY
    assert TINY.padding().dtype == np.float32
    frame = np.ones((1, 4), np.float32)
    assert TINY.push(TINY.padding(), frame) is frame


@pytest.mark.parametrize(("axis", "count"), [(0, 3), (1, 4), (3, 1)])
def test_a_stack_that_does_not_fit_the_shape_is_refused(axis: int, count: int) -> None:
    with pytest.raises(ValidationError, match=f"has no {count} frames along axis {axis}"):
        ObservationSpec(dtype="uint8", shape=(4, 6, 6), stack=FrameStack(axis=axis, count=count))


def test_layouts_with_parts_are_equal_whatever_was_computed_of_them() -> None:
    for spec in SPECS.values():
        copy = ObservationSpec.model_validate_json(spec.model_dump_json())
        assert spec.integer_ranges is not None
        assert copy.integer_ranges is not None
        assert spec == copy
        assert hash(spec) == hash(copy)
    assert SPECS["taxi"] != SPECS["maze"]


@pytest.mark.parametrize("spec", [TINY, FRAMES, *SPECS.values()])
def test_zeros_are_valid_observations(spec: ObservationSpec) -> None:
    zeros = spec.zeros(3)
    assert spec.check(zeros) is zeros or np.array_equal(spec.check(zeros), zeros)
    assert (zeros.shape, zeros.dtype) == ((3, *spec.shape), spec.dtype)
    if spec.integer_ranges is None:
        assert not zeros.any()


@pytest.mark.parametrize("dtype", ["<i8", ">i2", "<u8", "<f8"])
def test_integers_pass_in_any_dtype_that_holds_them(dtype: str) -> None:
    taxi = SPECS["taxi"]
    checked = taxi.check(np.array([[1000], [1499]]).astype(dtype))
    assert checked.dtype == np.int32
    assert checked.tolist() == [[1000], [1499]]
    with pytest.raises(
        ObservationError, match="an integer from 1000 to 1499 in 'state', received 15"
    ):
        taxi.check(np.array([[1500]]).astype(dtype))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([{"name": "a", "shape": (), "categories": (2,), "start": (2**24,)}], "received 'a' from"),
        ([{"name": "a", "shape": (20,), "categories": (60_000,) * 20}], "1,200,000 in 'a'"),
    ],
)
def test_categories_that_a_graph_cannot_tell_apart_or_hold_are_refused(parts, message):
    size = math.prod(parts[0]["shape"])
    with pytest.raises(ValidationError, match=message):
        ObservationSpec(dtype="int32", shape=(size,), parts=parts)
