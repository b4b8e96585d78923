from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slimq.cli.observations import read_observations
from slimq.core.errors import InvalidInputError
from wire import npy_header

HUGE = npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000000,)}")
BROKEN = npy_header("{'descr': '<f4', 'shape': (")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"x": 1}',
        b"[[1], [1, 2]]",
        b"\x93NUMPY",
        b"\xff",
        b"[" * 100_000,
        HUGE,
        BROKEN,
    ],
)
def test_an_input_of_neither_format_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "input"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="npy, npz, or JSON with observations"):
        read_observations(str(path))


def test_an_object_without_observations_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    path.write_text('{"observation": [[1, 2, 3, 4]]}')
    with pytest.raises(InvalidInputError, match=r"k\.json: an object without observations$"):
        read_observations(str(path))


def test_a_missing_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="No such file"):
        read_observations(str(tmp_path / "none.npy"))


def test_an_npy_with_objects_is_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "objects.npy"
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidInputError, match="allow_pickle"):
        read_observations(str(path))


def test_an_npz_has_an_array_per_part_or_only_observations(tmp_path: Path) -> None:
    np.savez(tmp_path / "parts.npz", image=np.zeros((2, 3)), direction=[0, 1])
    parts = read_observations(str(tmp_path / "parts.npz"))
    assert isinstance(parts, dict)
    assert parts["image"].shape == (2, 3)
    np.savez(tmp_path / "one.npz", observations=np.ones((2, 3)))
    assert np.shape(read_observations(str(tmp_path / "one.npz"))) == (2, 3)


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"PK\x05\x06" + bytes(18)])
def test_a_damaged_or_empty_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "input.npz"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"--input: expected npy, npz, or JSON"):
        read_observations(str(path))


def test_json_itself_is_an_input_and_quoted_in_short() -> None:
    assert np.shape(read_observations("[[1, 2]]")) == (1, 2)
    assert read_observations(' {"observations": {"x": [1]}}') == {"x": [1]}
    with pytest.raises(InvalidInputError) as refused:
        read_observations("[" + "1, " * 1000)
    assert len(str(refused.value)) < 250
