from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from policy_files import Payload, dense, q_net, save, sb3_zip
from slimq.core.errors import InvalidInputError
from slimq.importing.recognition import read_source
from slimq.importing.source import Hints


def test_kinds_are_recognised_by_their_content(tmp_path: Path) -> None:
    layers = dense(4, 2)
    clean = {f"network.{key}": value for key, value in layers.items()}
    save_file(layers, tmp_path / "safe")
    files = {
        "stable-baselines3": sb3_zip(tmp_path / "sb3", q_net(layers)),
        "torch": save(tmp_path / "torch", layers),
        "safetensors": tmp_path / "safe",
        "cleanrl": save(tmp_path / "x.cleanrl_model", clean),
    }
    for kind, path in files.items():
        assert read_source(path, Hints()).format == kind


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "an empty file"),
        (b"hello, world", "begins with 'hello, world'"),
        (b"PK\x03\x04", "a damaged archive"),
        (b"\0" * 64, "begins with"),
    ],
)
def test_other_files_are_refused_with_the_kinds_that_are_known(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(InvalidInputError, match=problem):
        read_source(tmp_path / "x.bin", Hints())


def test_states_given_as_the_policy_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "states.npz", observations=np.zeros((2, 4)))
    with pytest.raises(InvalidInputError, match="an npz of arrays; give states with --observat"):
        read_source(tmp_path / "states.npz", Hints())


def test_a_bare_pickle_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for name in ("x.pkl", "x.zip", "x.cleanrl_model", "x.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(Payload(trace)))
        with pytest.raises(InvalidInputError, match=r"needs io\.open; nothing of it was executed"):
            read_source(tmp_path / name, Hints())
    assert not trace.exists()


def test_a_kind_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x", dense(4, 2))
    for framework, problem in (
        ("sb3", "an archive with 'data'"), ("onnx", "an ONNX model"),
        ("flax", "flax.serialization"), ("cleanrl", "layers named network.0"),
        ("hub", "expected a folder"),
    ):  # fmt: skip
        with pytest.raises(InvalidInputError, match=problem):
            read_source(path, Hints(framework=framework))
    with pytest.raises(InvalidInputError, match="a file of onnx, received a folder"):
        read_source(tmp_path, Hints(framework="onnx"))
