"""`slimq inspect`: its tables and its JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slimq.core.errors import MissingExtraError

ROOT = Path(__file__).parents[2] / "policies"


def test_the_tables_show_operators_time_and_bytes_and_leave_no_file(
    slimq: Any, tmp_path: Path
) -> None:
    done = slimq(
        "inspect", "cartpole", "--variant", "int8", "--iterations", "20", "--policies", ROOT,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    words = [line.split() for line in done.stdout.splitlines()]
    assert ["operator", "before", "after"] in words
    assert ["com.microsoft.QGemm", "0", "2"] in words
    assert ["node", "operator", "mean,", "µs", "share"] in words
    assert any(line[:2] == ["head", "com.microsoft.QGemm"] for line in words)
    assert any(
        line[:4] == ["dense2.weight_quantized", "int8", "256×256", "65,573"] for line in words
    )
    assert any(line[:1] == ["(graph)"] for line in words)
    assert "per call at batch 1 (median of 20 on calibration states)" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_json_has_every_figure(run: Any) -> None:
    code, out, _ = run(
        "inspect", "tiny", "--variant", "fp32", "--json", "--batch", "4", "--iterations", "3"
    )
    values = json.loads(out)
    assert code == 0
    assert (values["batch"], values["iterations"], values["states"]) == (4, 3, "calibration")
    assert values["before"] == {"Gemm": 2, "Relu": 1}
    assert values["after"] == {"Gemm": 1, "com.microsoft.FusedGemm+Relu": 1}
    assert {one["name"] for one in values["tensors"]} == {"w1", "b1", "w2", "b2"}
    total = values["graph_bytes"] + sum(one["bytes"] for one in values["tensors"])
    assert total == values["model_bytes"] == values["stored_bytes"]


def test_a_compressed_model_shows_both_sizes(run: Any, tiny_repository: Path, mlp: Any) -> None:
    import zstandard

    from slimq.core.publish import Publisher, content_entry
    from slimq.core.repository import Repository

    model = mlp(5, width=200)
    stored = zstandard.ZstdCompressor().compress(model)
    entry = content_entry("model", ".onnx.zst", stored, uncompressed_bytes=len(model))
    repository = Repository(tiny_repository)
    manifest = repository.variant("tiny", "other")
    changes = {"name": "packed", "model": entry}
    Publisher(repository).publish_variant(manifest.model_copy(update=changes), stored)
    _, out, _ = run("inspect", "tiny", "--variant", "packed", "--iterations", "2")
    heading = out.splitlines()[0]
    assert heading.endswith(f"{len(stored):,} bytes on disk, {len(model):,} uncompressed")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--variant", "othr"], "unknown variant 'othr', did you mean 'other'?"),
        (["--variant", "fp32", "--batch", "0"], "batch: expected a number from 1 to 4096"),
    ],
)
def test_wrong_usage_exits_with_2(run: Any, arguments: list[str], problem: str) -> None:
    code, out, err = run("inspect", "tiny", *arguments)
    assert (code, out) == (2, "")
    assert problem in err


def test_without_onnx_the_extra_is_named(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "onnx" else find(name, *a)
    )
    code, _, err = run("inspect", "tiny", "--variant", "fp32")
    assert (code, err) == (2, f"slimq: {MissingExtraError('onnx', 'compress')}\n")
