"""Rules about files: where packages may be, how long a module may get, what a test file is for."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SHELVES = ("src", "service", "trainer", "compression")
MAX_LINES, MAX_SERVICE_LINES, MAX_FUNCTION_LINES = 400, 300, 60
MAX_MODULES = 15
"""In a package of the service."""
STILL_TOO_LONG: dict[str, int] = {}
"""What is over a limit of the service, with its lines; nothing is to be added."""

OF_FILES = ("docker", "house", "shipped")
"""Folders of tests that look at other files than modules."""
CROSS_CUTTING = {
    "cli/test_full_disk.py",
    "cli/test_train_from.py",
    "cli/test_unproven.py",
    "core/test_publish_crash.py",
    "evaluation/test_unproven.py",
    "importing/test_real_files.py",
    "loadtest/test_calibration.py",
    "loadtest/test_stall.py",
    "networks/test_kinds.py",
    "networks/test_window.py",
    "slimq_compression/export/test_kinds.py",
    "slimq_compression/test_generic_recipes.py",
    "slimq_compression/test_kinds.py",
    "slimq_compression/test_reproducibility.py",
    "slimq_service/api/stream/test_clients.py",
    "slimq_service/api/stream/test_page.py",
    "slimq_service/api/stream/test_robots.py",
    "slimq_service/api/stream/test_wire.py",
    "slimq_service/api/test_same_answers.py",
    "slimq_service/api/v2/test_clients.py",
    "slimq_service/api/v2/test_page.py",
    "slimq_service/api/v2/test_wire.py",
    "slimq_service/grpc/test_fuzz.py",
    "slimq_service/server/test_half_close.py",
    "slimq_service/server/test_shutdown.py",
    "slimq_service/server/test_stalls.py",
    "slimq_service/server/test_upgrades.py",
    "slimq_service/test_documented.py",
    "slimq_service/test_documented_metrics.py",
    "slimq_service/test_every_error.py",
    "slimq_service/test_fuzz.py",
    "slimq_service/test_hostile.py",
    "slimq_service/test_memory.py",
    "slimq_service/test_mounts.py",
    "slimq_service/test_soak.py",
    "slimq_trainer/test_batch_norm.py",
    "slimq_trainer/test_full_disk.py",
}
"""Test files of behaviour that several modules share, or of a page of the documentation."""


def modules(root: Path) -> list[Path]:
    return sorted(path for shelf in SHELVES for path in (root / shelf).rglob("*.py"))


def test_no_module_is_longer_than_the_cap(root: Path) -> None:
    found = modules(root)
    assert found
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in found}
    too_long = {str(path.relative_to(root)): n for path, n in lengths.items() if n > MAX_LINES}
    assert too_long == {}


@pytest.mark.parametrize("shelf", [*SHELVES, "docker"])
def test_a_shelf_is_not_a_package(root: Path, shelf: str) -> None:
    assert (root / shelf).is_dir()
    assert not (root / shelf / "__init__.py").exists()


def test_tests_are_not_packages(root: Path) -> None:
    assert list((root / "tests").rglob("__init__.py")) == []


def test_every_test_file_is_named_after_a_module_of_its_package(root: Path) -> None:
    unmirrored = {
        str(path.relative_to(root / "tests"))
        for path in (root / "tests").rglob("test_*.py")
        if path.relative_to(root / "tests").parts[0] not in OF_FILES and not mirrors(path, root)
    }
    assert unmirrored == CROSS_CUTTING


def mirrors(path: Path, root: Path) -> bool:
    """Whether a module, a package or a folder has the name that a test file says."""
    first, *inner = path.relative_to(root / "tests").parent.parts
    homes = (root, *(root / shelf for shelf in SHELVES), root / "src" / "slimq")
    name = path.stem.removeprefix("test_")
    return any(
        home.joinpath(first, *inner, found).exists()
        for home in homes
        for found in (f"{name}.py", f"_{name}.py", name)
    )


def test_no_module_and_no_function_of_the_service_is_too_long(root: Path) -> None:
    too_long = dict(over_the_limits(root))
    assert too_long == {}


def over_the_limits(root: Path) -> Iterator[tuple[str, int]]:
    """Modules and functions of the service with more lines than they may have."""
    for path in sorted((root / "service").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        place, lines = str(path.relative_to(root)), len(text.splitlines())
        if lines > MAX_SERVICE_LINES:
            yield place, lines
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    yield f"{place}::{node.name}", lines


def test_a_package_of_the_service_has_few_modules(root: Path) -> None:
    packages = {path.parent for path in (root / "service").rglob("*.py")}
    assert packages
    counts = {
        str(package.relative_to(root)): len({*package.glob("*.py")} - {package / "__init__.py"})
        for package in packages
    }
    assert {package: n for package, n in counts.items() if n > MAX_MODULES} == {}


def test_every_module_of_a_package_starts_with_what_it_is_for(root: Path) -> None:
    undocumented = [
        str(path.relative_to(root))
        for path in modules(root)
        if not path.name.endswith("_pb2.py")  # generated
        and not path.read_text(encoding="utf-8").startswith(('"""', 'r"""'))
    ]
    assert undocumented == []


def test_scripts_can_be_executed_and_parse(root: Path) -> None:
    for name in ("run", "serve-only", "deployment", "containers", "need"):
        script = root / ".ci" / name
        assert script.stat().st_mode & 0o111
        subprocess.run(["bash", "-n", str(script)], check=True)
