from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policy_files import Payload, write_states
from slimq.core.errors import InvalidInputError
from slimq.core.observation import ObservationPart, ObservationSpec
from slimq.importing.states import layout_of_states, read_states, split_states, states_for

IMAGE = ObservationSpec(dtype="uint8", shape=(3, 5, 6), low=0, high=255)
PARTS = ObservationSpec(
    dtype="float32",
    shape=(92,),
    parts=(
        ObservationPart(name="eye", shape=(3, 5, 6), integer=True, low=0, high=255),
        ObservationPart(name="x", shape=(2,)),
    ),
)


@pytest.mark.parametrize(
    ("dtype", "found"),
    [("f8", "float32"), ("f4", "float32"), ("u1", "uint8"), ("?", "uint8"), ("i8", "int32")],
)
def test_without_a_description_the_array_decides(tmp_path: Path, dtype: str, found: str) -> None:
    path = write_states(tmp_path / "x.npz", observations=np.ones((3, 4), dtype))
    arrays = read_states(path)
    layout = layout_of_states(arrays, None, "x")
    assert (layout.dtype, layout.shape) == (found, (4,))
    assert states_for(arrays, layout, "x").shape == (3, 4)


def test_images_may_have_their_channels_at_the_other_end() -> None:
    last = layout_of_states({"observations": np.zeros((2, 5, 6, 3), np.uint8)}, IMAGE, "x")
    assert last.shape == (5, 6, 3)
    first = layout_of_states({"observations": np.zeros((2, 3, 5, 6), np.uint8)}, IMAGE, "x")
    assert first == IMAGE
    arrays = {"eye": np.zeros((2, 5, 6, 3), np.uint8), "x": np.zeros((2, 2))}
    parts = layout_of_states(arrays, PARTS, "x")
    assert [part.shape for part in parts.parts or ()] == [(5, 6, 3), (2,)]
    assert states_for(arrays, parts, "x").shape == (2, 92)


@pytest.mark.parametrize(
    ("arrays", "described", "problem"),
    [
        ({"a": np.ones((2, 2))}, None, "x: expected the key 'observations' alone"),
        ({"a": np.ones((2, 2))}, IMAGE, "uint8"),
        ({"observations": np.ones(4)}, None, r"numbers of shape \(states, ...\)"),
        ({"observations": np.array([["a"]])}, None, "numbers of shape"),
        ({"observations": np.ones((2, 3, 3, 3), np.uint8)}, IMAGE, r"shape \(batch, 3, 5, 6\)"),
        ({"observations": np.full((2, 4), np.nan)}, None, r"observations\[0\]\[0\]"),
        ({"eye": np.ones((2, 3, 5, 6))}, PARTS, "no part 'x'"),
        ({"observations": np.ones((0, 4))}, None, "an empty batch"),
    ],
)
def test_states_that_do_not_fit_are_refused(arrays: Any, described: Any, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        states_for(arrays, layout_of_states(arrays, described, "x"), "x")


def test_other_files_are_refused_and_objects_are_not_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    hostile = np.empty(1, object)
    hostile[0] = Payload(trace)
    np.savez(tmp_path / "x.npz", observations=hostile)
    with pytest.raises(InvalidInputError, match=r"'observations\.npy': Object arrays cannot"):
        read_states(tmp_path / "x.npz")
    assert not trace.exists()
    (tmp_path / "y.npz").write_bytes(b"\x89HDF")
    with pytest.raises(InvalidInputError, match=r"write it with numpy\.savez"):
        read_states(tmp_path / "y.npz")
    np.savez(tmp_path / "z.npz")
    with pytest.raises(InvalidInputError, match="empty archive"):
        read_states(tmp_path / "z.npz")


@pytest.mark.parametrize("count", [10, 14, 15, 1000])
def test_every_fifth_state_is_held_out(count: int) -> None:
    calibration, held_out = split_states(np.arange(count)[:, np.newaxis])
    assert held_out is not None
    assert held_out[:2].ravel().tolist() == [4, 9]
    assert len(held_out) == count // 5
    assert sorted([*calibration.ravel(), *held_out.ravel()]) == list(range(count))


@pytest.mark.parametrize("count", [1, 9])
def test_few_states_are_not_split(count: int) -> None:
    states = np.ones((count, 4))
    assert split_states(states) == (states, None)


def test_one_array_may_be_an_npy_file(tmp_path: Path) -> None:
    array = np.arange(8.0).reshape(2, 4)
    np.save(tmp_path / "x.npy", array)
    found = read_states(tmp_path / "x.npy")
    assert list(found) == ["observations"]
    np.testing.assert_array_equal(found["observations"], array)
    (tmp_path / "y.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-8])
    with pytest.raises(InvalidInputError, match="the array: "):
        read_states(tmp_path / "y.npy")
