"""The calibration set stores each frame once and restores whole observations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimq.core.calibration import CalibrationSet
from slimq.core.observation import FrameStack, ObservationSpec


def spec_of(shape: tuple[int, ...], axis: int, count: int) -> ObservationSpec:
    return ObservationSpec(dtype="uint8", shape=shape, stack=FrameStack(axis=axis, count=count))


@pytest.fixture
def frames() -> Any:
    return np.arange(1, 1 + 5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3)


INDICES = np.array([[-1, -1, 0], [-1, 0, 1], [0, 1, 2], [2, 3, 4]], np.int32)


def test_states_are_stacked_oldest_first_with_zero_padding(frames: Any) -> None:
    calibration = CalibrationSet(frames, INDICES, np.zeros((4, 2), np.float32))
    states = calibration.observations(spec_of((3, 2, 3), 0, 3))
    assert len(calibration) == 4
    assert states.dtype == np.uint8
    assert states.flags.c_contiguous
    assert (states[0, :2] == 0).all()
    assert (states[0, 2] == frames[0]).all()
    assert (states[2] == frames[:3]).all()
    assert (states[3] == frames[2:]).all()


def test_frames_can_be_stacked_along_the_last_axis(frames: Any) -> None:
    calibration = CalibrationSet(frames, INDICES, np.zeros((4, 2), np.float32))
    states = calibration.observations(spec_of((2, 3, 3), 2, 3))
    assert (states[2] == np.stack(list(frames[:3]), axis=-1)).all()
    assert (states[0, :, :, :2] == 0).all()


def test_padding_does_not_change_the_stored_frames(frames: Any) -> None:
    before = frames.copy()
    CalibrationSet(frames, INDICES, np.zeros((4, 2), np.float32)).observations(
        spec_of((3, 2, 3), 0, 3)
    )
    assert (frames == before).all()


def test_observations_without_a_stack_are_stored_whole() -> None:
    states = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    indices = np.arange(6, dtype=np.int32)[:, None]
    calibration = CalibrationSet(states, indices, np.zeros((6, 2), np.float32))
    spec = ObservationSpec(dtype="float32", shape=(4,))
    assert (calibration.observations(spec) == states).all()


@settings(max_examples=30)
@given(st.data())
def test_a_set_survives_its_bytes(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 4))
    generator = np.random.default_rng(data.draw(st.integers(0, 1000)))
    frames = generator.integers(0, 256, (data.draw(st.integers(1, 6)), 3, 2)).astype(np.uint8)
    indices = generator.integers(-1, len(frames), (5, count)).astype(np.int32)
    q_values = generator.normal(size=(5, 3)).astype(np.float32)
    calibration = CalibrationSet(frames, indices, q_values)
    read = CalibrationSet.from_bytes(calibration.to_bytes())
    for name in ("frames", "indices", "q_values"):
        one, other = getattr(calibration, name), getattr(read, name)
        assert one.dtype == other.dtype
        assert (one == other).all()


def test_the_bytes_are_the_same_every_time(frames: Any) -> None:
    calibration = CalibrationSet(frames, INDICES, np.zeros((4, 2), np.float32))
    assert calibration.to_bytes() == calibration.to_bytes()


def test_a_set_with_pickled_objects_is_refused() -> None:
    import io

    stream = io.BytesIO()
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(stream, frames=objects, indices=INDICES, q_values=INDICES)
    with pytest.raises(ValueError, match="pickle"):
        CalibrationSet.from_bytes(stream.getvalue())
