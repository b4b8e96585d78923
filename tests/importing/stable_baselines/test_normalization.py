from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policy_files import Payload, dense, forward, q_net, sb3_zip
from slimq.core.errors import InvalidInputError
from slimq.importing.checking import draw_observations, relative_error
from slimq.importing.source import Hints
from slimq.importing.stable_baselines.normalization import read_statistics
from slimq.importing.stable_baselines.reader import read_zip
from slimq.networks.torch_policy import TorchPolicy

MEAN, VAR = np.array([1.0, -2.0, 0.5, 0.0]), np.array([4.0, 0.25, 1.0, 9.0])


class RunningMeanStd:
    def __init__(self, mean: Any, var: Any) -> None:
        self.mean, self.var, self.count = mean, var, 100.0


class VecNormalize:
    """The attributes that matter, as a pickle of Stable-Baselines3 has them."""

    def __init__(self, rms: Any, **more: Any) -> None:
        self.norm_obs, self.obs_rms = True, rms
        self.epsilon, self.clip_obs = 1e-3, 1.5
        vars(self).update(more)


def write(path: Path, value: Any) -> Path:
    path.write_bytes(pickle.dumps(value))
    return path


@pytest.mark.parametrize("kind", ["pickle", "npz", "json"])
def test_statistics_are_part_of_the_policy(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "statistics"
    if kind == "pickle":
        write(path, VecNormalize(RunningMeanStd(MEAN, VAR)))
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, mean=MEAN, var=VAR, epsilon=1e-3, clip=1.5)
    else:
        numbers = {"mean": MEAN.tolist(), "var": VAR.tolist(), "epsilon": 1e-3, "clip": 1.5}
        path.write_text(json.dumps(numbers))
    layers = dense(4, 6, 2)
    source = read_zip(sb3_zip(tmp_path / "x.zip", q_net(layers)), Hints(vecnormalize=path))
    assert source.layout is not None
    fitted = source.fit(source.layout)
    states = draw_observations(source.layout, 9) * 3
    normalized = np.clip((states - MEAN) / np.sqrt(VAR + 1e-3), -1.5, 1.5)
    assert np.abs(normalized).max() == 1.5
    assert fitted.network is not None
    for q_values in (TorchPolicy(fitted.network)(states), fitted.reference(states)):
        assert relative_error(forward(layers, normalized), q_values) < 1e-5


def test_a_wrapper_that_normalizes_no_observations_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "x", VecNormalize(None, norm_obs=False))
    assert read_statistics(path) is None


def test_a_hostile_pickle_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for value in (
        Payload(trace),
        VecNormalize(Payload(trace)),
        VecNormalize(RunningMeanStd(Payload(trace), VAR)),
        VecNormalize(RunningMeanStd(MEAN, VAR), clip_obs=Payload(trace)),
    ):
        with pytest.raises(InvalidInputError, match="write its numbers to a file: v = VecNorm"):
            read_statistics(write(tmp_path / "x", value))
    harmless = write(tmp_path / "x", VecNormalize(RunningMeanStd(MEAN, VAR), venv=Payload(trace)))
    assert read_statistics(harmless) is not None
    assert not trace.exists()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (VecNormalize({"a": RunningMeanStd(MEAN, VAR)}), "statistics of the parts a"),
        (VecNormalize(RunningMeanStd(MEAN, VAR[:2])), "mean and var of the same shape"),
        (VecNormalize(RunningMeanStd(MEAN, -VAR)), "at least 0, received -9"),
        (VecNormalize(RunningMeanStd(MEAN * np.nan, VAR)), "nan in 'mean'"),
        (VecNormalize(RunningMeanStd(MEAN, VAR), clip_obs=-1.0), "clip above 0"),
        ([1, 2], "something else"),
    ],
)
def test_statistics_that_make_no_sense_are_refused(
    tmp_path: Path, value: Any, problem: str
) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        read_statistics(write(tmp_path / "x", value))


def test_statistics_of_another_shape_or_of_integers_are_refused(tmp_path: Path) -> None:
    import gymnasium

    path = write(tmp_path / "x", VecNormalize(RunningMeanStd(MEAN[:3], VAR[:3])))
    hints = Hints(vecnormalize=path)
    source = read_zip(sb3_zip(tmp_path / "a.zip", q_net(dense(4, 2))), hints)
    assert source.layout is not None
    with pytest.raises(InvalidInputError, match=r"statistics of observations \(4,\), .*\(3,\)"):
        source.fit(source.layout)
    codes = sb3_zip(tmp_path / "b.zip", q_net(dense(4, 2)), gymnasium.spaces.Discrete(4))
    with pytest.raises(InvalidInputError, match="float observations without parts"):
        read_zip(codes, hints)


@pytest.mark.parametrize("text", ['{"mean": [1]}', '{"mean": "x", "var": [1]}', "{"])
def test_wrong_numbers_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(InvalidInputError, match="mean, var and, optionally, epsilon and clip"):
        read_statistics(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"PK\x03\x04garbage", "a complete zip archive"),
        (b'{"mean":' + b"[" * 200_000, "nested too deeply"),
        (b'{"mean":' + b"[" * 500, "mean, var and"),
    ],
)
def test_damaged_numbers_are_refused_in_a_line(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "normalize.npz"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=problem) as refused:
        read_statistics(path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_numbers_that_unpack_to_too_much_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "normalize.npz"
    np.savez_compressed(path, mean=np.zeros(3 << 20), var=np.ones(4))
    with pytest.raises(InvalidInputError, match="64 times their file"):
        read_statistics(path)


def test_notes_do_not_name_folders_of_this_machine(tmp_path: Path) -> None:
    np.savez(tmp_path / "normalize.npz", mean=np.zeros(4), var=np.ones(4))
    path = sb3_zip(tmp_path / "x.zip", q_net(dense(4, 2)))
    source = read_zip(path, Hints(vecnormalize=tmp_path / "normalize.npz"))
    assert source.notes == ("normalizes with normalize.npz",)
