"""Exports to C compile without a warning and answer as ONNX Runtime does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from c_exports import BOUND, export, make_check, needs_compiler, relative_difference
from network_kinds import KINDS, draw_observations, layout_of, make_kind
from places import POLICIES
from slimq.core.repository import Repository
from slimq.networks.export import export_onnx
from slimq_compression.export.c.target import compare

pytestmark = needs_compiler
FORMS = [
    ("cartpole", "sparse-obd"),
    ("frozenlake", "fitted-128-4bit"),
    ("minigrid-empty", "whole-int8"),
    ("pong", "tiny"),
]
"""Weights as floats, bytes, packed codes, behind a mask; sums of floats and of integers; frames."""
SANITIZED = 500_000
"""Bytes of constants; with more, sanitizers take minutes to compile."""
MAX_OTHER_ACTIONS = 0.02
"""Share of all states, ties included: no other state may differ, but many could be ties."""
REFUSED = {("pong", "int4-blocks"), ("pong", "qat-int4")}
SHIPPED = [
    (policy, variant)
    for policy in Repository(POLICIES).policies()
    for variant in Repository(POLICIES).variants(policy)
    if (policy, variant) not in REFUSED
]


@pytest.mark.parametrize(("policy", "variant"), FORMS)
def test_the_self_test_passes_with_sanitizers(policy: str, variant: str, tmp_path: Path) -> None:
    check_export(policy, variant, tmp_path / "export")


def test_a_folder_may_be_named_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check_export("cartpole", "micro", Path("export"))
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "variant"), SHIPPED)
def test_every_shipped_variant(policy: str, variant: str, tmp_path: Path) -> None:
    check_export(policy, variant, tmp_path / "export")


def check_export(policy: str, variant: str, folder: Path) -> None:
    report = export(policy, variant, folder)
    agreement = report.agreement
    assert agreement is not None
    assert agreement.states >= 1000
    assert agreement.relative <= BOUND
    assert agreement.same_actions_without_ties == 1.0
    assert agreement.same_actions >= 1 - MAX_OTHER_ACTIONS
    if report.flash.constants > SANITIZED:
        return
    done = make_check(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 other actions, 0 with other bits" in done.stdout
    assert "warning" not in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network(kind: str, tmp_path: Path) -> None:
    content, spec = export_onnx(make_kind(kind)), layout_of(kind)
    states = draw_observations(kind, 40)
    actions = KINDS[kind].actions
    assert relative_difference(content, spec, actions, tmp_path, states) < 1e-5


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("micro") / "export"
    export("cartpole", "micro", folder, vectors=100, prefix="pole")
    return folder


def test_the_folder_has_what_a_reviewer_needs(micro: Path) -> None:
    names = {path.name for path in micro.iterdir()}
    assert names == {"pole.h", "pole.c", "selftest.c", "Makefile", "golden.bin", "report.json"}
    report = json.loads((micro / "report.json").read_text())
    assert (report["policy"], report["variant"], report["vectors"]) == ("cartpole", "micro", 100)
    assert report["macs"] == 48
    ram = report["ram"]
    assert ram["bytes"] == sum(ram[part] for part in ("state", "frame", "stack", "libraries"))
    header = (micro / "pole.h").read_text()
    assert (
        "Mean return 500 (95 % interval 500 to 500) over 100 held-out episodes"
        in header.replace("\n * ", " ")
    )
    for name in ("reset", "observe", "q_values", "act"):
        assert f" pole_{name}(pole_state *state" in header


@pytest.mark.parametrize("word", ["malloc", "printf", "stdio", "double"])
def test_the_source_does_without(word: str, micro: Path) -> None:
    assert word not in (micro / "pole.c").read_text() + (micro / "pole.h").read_text()


def test_the_self_test_finds_a_changed_weight(micro: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(micro, folder)
    source = (folder / "pole.c").read_text()
    assert "10.058358f" in source
    (folder / "pole.c").write_text(source.replace("10.058358f", "10.5f"))
    done = make_check(folder)
    assert done.returncode != 0
    assert " 0 other actions" not in done.stdout or " 0 with other bits" not in done.stdout


def test_the_self_test_refuses_truncated_vectors(micro: Path, tmp_path: Path) -> None:
    folder = tmp_path / "truncated"
    shutil.copytree(micro, folder)
    golden = folder / "golden.bin"
    golden.write_bytes(golden.read_bytes()[:-8])
    done = make_check(folder)
    assert done.returncode != 0
    assert "the golden vectors are incomplete" in done.stdout


def test_the_same_variant_gives_the_same_files(micro: Path, tmp_path: Path) -> None:
    export("cartpole", "micro", tmp_path / "again", vectors=100, prefix="pole")
    for path in micro.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_ties_do_not_count_against_the_agreement() -> None:
    reference = np.array([[1.0, 0.0], [0.5, 0.5001]], np.float32)
    found = np.array([[1.0, 0.0], [0.5002, 0.5001]], np.float32)
    agreement = compare(found, reference)
    assert (agreement.same_actions, agreement.ties) == (0.5, 1)
    assert agreement.same_actions_without_ties == 1.0
    assert agreement.relative == pytest.approx(2e-4, rel=1e-3)
