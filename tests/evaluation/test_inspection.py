"""Models from the inside: the shipped ones, and small ones made here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zstandard
from onnx import helper, numpy_helper

from slimq.core.errors import InvalidInputError, NotFoundError
from slimq.core.publish import Publisher, content_entry
from slimq.core.repository import Repository
from slimq.evaluation.inspection import (
    Inspection,
    count_operators,
    inspect_variant,
    measure_tensors,
)


@pytest.fixture(scope="module")
def shipped() -> Repository:
    return Repository(Path(__file__).parents[2] / "policies")


@pytest.fixture(scope="module")
def int8(shipped: Repository) -> Inspection:
    return inspect_variant(shipped, "cartpole", "int8", iterations=20)


def test_the_operators_of_the_file_and_of_the_optimised_graph_are_counted(
    shipped: Repository, int8: Inspection
) -> None:
    model = onnx.load_model_from_string(shipped.read_model("cartpole", "int8")[1])
    assert sum(int8.before.values()) == len(model.graph.node)
    assert int8.before["Gemm"] == 3
    assert int8.after["com.microsoft.QGemm"] == 2
    assert sum(int8.after.values()) < sum(int8.before.values())


def test_a_fused_activation_is_named(shipped: Repository) -> None:
    found = inspect_variant(shipped, "pong", "fp32", iterations=2)
    assert (found.before["Conv"], found.before["Relu"]) == (3, 4)
    assert "Relu" not in found.after
    assert found.after["com.microsoft.FusedGemm+Relu"] == 1
    assert sum(count for name, count in found.after.items() if name.endswith("Conv+Relu")) == 3


def test_every_node_that_runs_is_timed_and_the_shares_add_up(int8: Inspection) -> None:
    counted: dict[str, int] = {}
    for one in int8.operators:
        counted[one.operator] = counted.get(one.operator, 0) + 1
    assert counted == int8.after
    assert [one.name for one in int8.operators][-1] == "head"
    assert sum(one.share or 0.0 for one in int8.operators) == pytest.approx(1.0)
    assert int8.call_us > 0
    assert (int8.batch, int8.iterations, int8.states) == (1, 20, "calibration")


def test_the_bytes_of_tensors_and_graph_add_up_to_the_file(
    shipped: Repository, int8: Inspection
) -> None:
    manifest, model = shipped.read_model("cartpole", "int8")
    assert int8.stored_bytes == int8.model_bytes == manifest.model.bytes == len(model)
    assert int8.graph_bytes + sum(one.bytes for one in int8.tensors) == len(model)
    largest = int8.tensors[0]
    assert (largest.name, largest.dtype) == ("dense2.weight_quantized", "int8")
    assert 256 * 256 < largest.bytes < 256 * 256 + 100
    assert largest.share == largest.bytes / len(model)


def test_a_compressed_model_states_both_sizes(
    tiny_repository: Path, mlp: Any, variant_manifest: Any
) -> None:
    repository = Repository(tiny_repository)
    model = mlp(5, width=200)
    stored = zstandard.ZstdCompressor().compress(model)
    entry = content_entry("model", ".onnx.zst", stored, uncompressed_bytes=len(model))
    Publisher(repository).publish_variant(variant_manifest("tiny", "packed", entry), stored)
    found = inspect_variant(repository, "tiny", "packed", batch=3, iterations=2)
    assert (found.stored_bytes, found.model_bytes) == (len(stored), len(model))
    assert found.sha256 == hashlib.sha256(stored).hexdigest()
    assert found.before == {"Gemm": 2, "Relu": 1}


def test_without_a_calibration_set_the_input_is_zeros(tiny_repository: Path) -> None:
    path = tiny_repository / "tiny" / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"calibration": None}))
    found = inspect_variant(Repository(tiny_repository), "tiny", "fp32", iterations=2)
    assert found.states == "zeros"


def test_nodes_without_names_are_timed_under_their_operators(tiny_repository: Path) -> None:
    found = inspect_variant(Repository(tiny_repository), "tiny_frames", "fp32", iterations=3)
    assert {"Cast", "Mul", "ReduceMean", "Gemm"} <= {one.operator for one in found.operators}


def test_nothing_is_left_behind(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, temporary = tmp_path / "empty", tmp_path / "temporary"
    empty.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    before = sorted(tiny_repository.rglob("*"))
    inspect_variant(Repository(tiny_repository), "tiny", "fp32", iterations=2)
    assert list(empty.iterdir()) == list(temporary.iterdir()) == []
    assert sorted(tiny_repository.rglob("*")) == before


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"batch": 0}, "batch: expected a number from 1 to 4096, received 0"),
        ({"iterations": 10_001}, "iterations: expected a number from 1 to 10000, received 10001"),
    ],
)
def test_a_count_out_of_range_is_refused_by_name(
    tiny_repository: Path, values: dict[str, int], problem: str
) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        inspect_variant(Repository(tiny_repository), "tiny", "fp32", **values)  # type: ignore[arg-type]


def test_an_unknown_variant_lists_the_available_ones(tiny_repository: Path) -> None:
    with pytest.raises(NotFoundError, match="unknown variant 'othr', did you mean 'other'"):
        inspect_variant(Repository(tiny_repository), "tiny", "othr")


def test_four_bits_constants_and_sparse_tensors_are_measured_as_they_are_stored() -> None:
    packed = helper.make_tensor("packed", onnx.TensorProto.INT4, (6,), bytes(3), raw=True)
    constant = helper.make_node(
        "Constant", [], ["made"], value=numpy_helper.from_array(np.zeros(10, np.float32))
    )
    values = numpy_helper.from_array(np.ones(2, np.float32), "rare")
    indices = numpy_helper.from_array(np.array([1, 5], np.int64))
    sparse = helper.make_sparse_tensor(values, indices, [100])
    graph = helper.make_graph(
        [constant], "g", [], [], initializer=[packed], sparse_initializer=[sparse]
    )
    found = {one.name: one for one in measure_tensors(graph, 1000)}
    assert (found["packed"].dtype, found["packed"].shape) == ("int4", (6,))
    assert 3 <= found["packed"].bytes < 25
    assert (found["made"].dtype, found["made"].shape) == ("float32", (10,))
    assert 40 <= found["made"].bytes < 60
    assert found["rare"].shape == (100,)
    assert 24 <= found["rare"].bytes < 60
    assert count_operators(graph) == {"Constant": 1}
