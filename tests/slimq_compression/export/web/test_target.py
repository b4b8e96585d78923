"""The folder of an export to the web."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from builders import (
    build_repository,
    make_calibration,
    make_mlp,
    make_policy_manifest,
    write_policy,
)
from slimq.core.errors import InvalidInputError
from slimq.core.manifest import PolicyManifest
from slimq.core.repository import Repository
from slimq_compression.export.options import Options
from slimq_compression.export.targets import export_variant
from slimq_compression.export.web.report import WebReport
from slimq_compression.export.web.runtime import SCRIPT, WASM, licences
from web_exports import export


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_repository(tmp_path_factory.mktemp("repository") / "policies")


@pytest.fixture(scope="module")
def tiny(policies: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[WebReport, Path]:
    folder = tmp_path_factory.mktemp("tiny") / "export"
    return export("tiny", "fp32", folder, policies), folder


def test_the_folder_runs_by_itself(tiny: tuple[WebReport, Path]) -> None:
    report, folder = tiny
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    vendored = {f"runtime/{name}" for name in (SCRIPT, WASM, *licences())}
    assert {"index.html", "main.js", "style.css", "model.onnx", "episode.bin"} <= files
    assert {name for name in files if name.startswith("runtime/")} == vendored
    own = [folder / name for name in files - vendored if name.endswith((".js", ".html", ".css"))]
    for path in own:
        assert "//cdn" not in path.read_text(encoding="utf-8")
        assert "https://" not in path.read_text(encoding="utf-8")
    size = sum((folder / name).stat().st_size for name in files - {"report.json"})
    assert report.total_bytes == size


def test_every_file_that_the_page_names_is_there(tiny: tuple[WebReport, Path]) -> None:
    import re

    _, folder = tiny
    for path in [folder / "index.html", *folder.glob("*.js"), *folder.glob("environments/*.js")]:
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r'(?:href|src|from|import\()[ =]?"(\.?/?[\w./-]+\.\w+)"', text):
            assert (path.parent / name).is_file(), f"{path.name}: {name}"


def test_the_report_says_what_the_page_needs(tiny: tuple[WebReport, Path]) -> None:
    report, folder = tiny
    written = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert written["page_environment"] == {"kind": "cartpole", "options": {}, "max_steps": 500}
    assert written["observation"] == {"dtype": "float32", "shape": [4], "axis": None, "count": 1}
    model = (folder / "model.onnx").read_bytes()
    assert written["model"]["sha256"] == hashlib.sha256(model).hexdigest()
    assert written["model"]["variant_bytes"] == written["model"]["bytes"] == len(model)
    assert written["evidence"]["text"] == "No evidence: this variant has not been evaluated."
    episode = written["episode"]
    assert episode["seed"] == 3_000_000
    assert episode["return_"] == episode["steps"] == report.episode.steps > 0


def without_environment() -> PolicyManifest:
    update = {"environment": None, "random_policy": None}
    return make_policy_manifest("tiny").model_copy(update=update)


def test_a_policy_without_an_environment_replays_recorded_states(tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    models = {"fp32": make_mlp()}
    write_policy(policies, without_environment(), make_calibration("tiny"), models)
    report = export("tiny", "fp32", tmp_path / "export", policies)
    assert report.environment is report.page_environment is report.episode.seed is None
    assert (report.episode.steps, report.drawing.kind) == (16, "values")


def test_nothing_is_left_of_an_export_that_fails(policies: Path, tmp_path: Path) -> None:
    output = tmp_path / "export"
    with pytest.raises(InvalidInputError, match="runtime: expected the folder or tarball of"):
        export_variant(
            Repository(policies), "tiny", "fp32", "web", output, Options(runtime=tmp_path)
        )
    assert list(tmp_path.iterdir()) == []
