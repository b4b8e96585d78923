from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from policy_files import Module, Payload, dense, save, torch_bytes
from slimq.core.errors import InvalidInputError
from slimq.importing.files.tensors import load_safe, load_tensors, state_dict


def test_a_state_dict_is_loaded() -> None:
    weights = dense(4, 3, 2)
    found = state_dict(load_tensors(torch_bytes(OrderedDict(weights)), "x"), "x")
    assert list(found) == list(weights)
    assert all(torch.equal(found[key], weights[key]) for key in weights)


def test_halves_and_doubles_become_floats() -> None:
    found = state_dict({"a": torch.ones(2).half(), "b": torch.ones(2).double()}, "x")
    assert {value.dtype for value in found.values()} == {torch.float32}


def test_a_pickle_that_runs_code_leaves_no_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    content = torch_bytes({"a": torch.ones(2), "b": Payload(trace)})
    with pytest.raises(InvalidInputError, match=r"needs io\.open; nothing of it was executed"):
        load_tensors(content, "x")
    assert not trace.exists()
    torch.load(save(tmp_path / "x.pt", {"b": Payload(trace)}), weights_only=False)["b"].close()
    assert trace.exists(), "the pickle is harmless, so the test shows nothing"


def test_a_bare_pickle_is_not_loaded(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(InvalidInputError, match=r"io\.open; nothing .*torch\.save\(model\.state"):
        load_tensors(pickle.dumps(Payload(trace)), "x")
    assert not trace.exists()


def test_a_pickled_module_is_refused_by_the_name_of_its_class() -> None:
    with pytest.raises(InvalidInputError, match=r"needs policy_files\.Module"):
        load_tensors(torch_bytes(Module()), "x")


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(1))
        archive.writestr("x/constants.pkl", pickle.dumps(()))
    with pytest.raises(InvalidInputError, match="TorchScript"):
        load_tensors((tmp_path / "x.pt").read_bytes(), "x")


def test_the_form_of_old_torch_is_named(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save(dense(4, 2), stream, _use_new_zipfile_serialization=False)
    with pytest.raises(InvalidInputError, match=r"torch before 1\.6.*save it again"):
        load_tensors(stream.getvalue(), "x")


def test_a_truncated_file_is_refused() -> None:
    content = torch_bytes(dense(4, 2))
    for length in (3, 100, len(content) // 2, len(content) - 1):
        with pytest.raises(InvalidInputError, match="damaged archive"):
            load_tensors(content[:length], "x")


def test_a_tensor_larger_than_its_storage_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="dense tensors"):
        load_tensors(torch_bytes({"a": torch.zeros(1).expand(1 << 40)}), "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    weights = dense(4, 3, 2)
    weights["2.weight"][1, 2] = value
    with pytest.raises(InvalidInputError, match=rf"{value} in '2.weight' at \[1\]\[2\]"):
        state_dict(weights, "x")


@pytest.mark.parametrize("value", [[1, 2], torch.ones(2), {}, {"a": {"b": torch.ones(1)}}, 5])
def test_what_is_no_state_dict_is_refused(value: object) -> None:
    with pytest.raises(InvalidInputError, match="expected a state dict"):
        state_dict(value, "x")


def test_damaged_safetensors_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="complete safetensors"):
        load_safe(b"\x10\0\0\0\0\0\0\0{}", "x")
