"""Rules about files: where packages may be, how long a module may get."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SHELVES = ("src", "service", "trainer", "compression")
LONGEST = 400


def modules(root: Path) -> list[Path]:
    return sorted(path for shelf in SHELVES for path in (root / shelf).rglob("*.py"))


def test_no_module_is_longer_than_the_cap(root: Path) -> None:
    found = modules(root)
    assert found
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in found}
    too_long = {str(path.relative_to(root)): n for path, n in lengths.items() if n > LONGEST}
    assert too_long == {}


@pytest.mark.parametrize("shelf", [*SHELVES, "docker"])
def test_a_shelf_is_not_a_package(root: Path, shelf: str) -> None:
    assert (root / shelf).is_dir()
    assert not (root / shelf / "__init__.py").exists()


def test_tests_are_not_packages(root: Path) -> None:
    assert list((root / "tests").rglob("__init__.py")) == []


def test_every_folder_of_tests_mirrors_a_package_or_a_shelf(root: Path) -> None:
    mirrored = {path.parent.name for path in modules(root)} | {
        "benchmarks",
        "docker",
        "house",
        "shipped",
    }
    folders = {path.parent.name for path in (root / "tests").glob("*/test_*.py")}
    assert folders <= mirrored


def test_every_module_of_a_package_starts_with_what_it_is_for(root: Path) -> None:
    undocumented = [
        str(path.relative_to(root))
        for path in modules(root)
        if not path.read_text(encoding="utf-8").startswith(('"""', 'r"""'))
    ]
    assert undocumented == []


def test_scripts_can_be_executed_and_parse(root: Path) -> None:
    for name in ("run", "serve-only", "deployment", "containers", "need"):
        script = root / ".ci" / name
        assert script.stat().st_mode & 0o111
        subprocess.run(["bash", "-n", str(script)], check=True)
