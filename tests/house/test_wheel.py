"""What the wheel holds and what its extras bring.

The wheel is built here, unless SLIMQ_TEST_WHEEL names one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

PACKAGES = {"slimq", "slimq_service", "slimq_trainer", "slimq_compression"}
SHELVES = ("src", "service", "trainer", "compression")
SHIPPED = {"fp32", "int8", "int8-dynamic"}
"""Recipes without training, among those for any policy."""


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = os.environ.get("SLIMQ_TEST_WHEEL")
    if built:
        return Path(built)
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=120)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def metadata(wheel: Path, names: list[str]) -> Message:
    (path,) = [name for name in names if name.endswith(".dist-info/METADATA")]
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(path).decode())


def test_top_level_names_are_the_four_packages(names: list[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


def test_every_module_of_the_tree_is_in_it(root: Path, names: list[str]) -> None:
    for shelf in SHELVES:
        modules = {str(path.relative_to(root / shelf)) for path in (root / shelf).rglob("*.py")}
        assert modules <= set(names)


def test_the_page_of_the_interface_is_in_it_with_its_licence(names: list[str]) -> None:
    folder = "slimq_service/api/swagger_ui/"
    files = {"swagger-ui-bundle.js.gz", "swagger-ui.css.gz", "start.js", "LICENSE", "NOTICE"}
    assert {folder + name for name in files} <= set(names)


def test_the_c_files_of_exports_are_in_it(root: Path, names: list[str]) -> None:
    folder = root / "compression" / "slimq_compression" / "export"
    files = {path for pattern in ("*.c", "*.h", "Makefile") for path in folder.rglob(pattern)}
    assert {path.name for path in files} >= {"selftest.c", "Makefile", "startup.c", "player.c"}
    assert {str(path.relative_to(root / "compression")) for path in files} <= set(names)


def test_the_page_of_exports_is_in_it(root: Path, names: list[str]) -> None:
    folder = root / "compression" / "slimq_compression" / "export" / "web" / "page"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".html", ".css", ".js"}
    assert {str(path.relative_to(root / "compression")) for path in files} <= set(names)


def test_the_page_of_the_service_is_in_it(root: Path, names: list[str]) -> None:
    shelf = root / "service"
    files = list((shelf / "slimq_service" / "api" / "page_files").iterdir())
    assert {path.suffix for path in files} == {".html", ".css", ".js", ".svg"}
    assert {str(path.relative_to(shelf)) for path in files} <= set(names)
    folder = "slimq/core/pages/shared/"
    assert {folder + name for name in ("tokens.css", "drawings.js")} <= set(names)


def test_the_recipes_for_any_policy_are_in_it_and_those_of_one_are_not(
    root: Path, wheel: Path, names: list[str]
) -> None:
    generic = {path.name: path.read_bytes() for path in (root / "recipes").glob("*.toml")}
    assert {Path(name).stem for name in generic} >= SHIPPED
    with zipfile.ZipFile(wheel) as archive:
        found = {name: archive.read(name) for name in names if name.endswith(".toml")}
    assert found == {f"slimq_compression/recipes/{name}": text for name, text in generic.items()}


FIND_ALL = """
from slimq_compression.recipe import load_recipe
from slimq_compression.recipe_files import recipe_names, resolve_recipe, shipped_folder

for name in recipe_names(shipped_folder()):
    path = resolve_recipe(name, "mine")
    print(path.parent, load_recipe(path).name)
"""


def test_recipes_of_the_wheel_are_found_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    done = subprocess.run(
        [sys.executable, "-c", FIND_ALL],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    place = installed / "slimq_compression/recipes"
    assert {f"{place} {name}" for name in SHIPPED} <= set(done.stdout.splitlines())


def test_an_editable_install_names_the_four_folders(root: Path, tmp_path: Path) -> None:
    target = ["-t", "wheel:editable", "-d", str(tmp_path)]
    command = [sys.executable, "-m", "hatchling", "build", *target]
    subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=120)
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        (pth,) = [name for name in archive.namelist() if name.endswith(".pth")]
        folders = archive.read(pth).decode().split()
    assert set(folders) == {str(root / name) for name in SHELVES}


def test_packages_are_marked_as_typed(names: list[str]) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)


def test_licence_and_command_are_in_it(wheel: Path, names: list[str]) -> None:
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
    (path,) = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
    with zipfile.ZipFile(wheel) as archive:
        assert "slimq = slimq.cli.main:main" in archive.read(path).decode()


def test_serve_brings_nothing_of_training(metadata: Message) -> None:
    requirements = metadata.get_all("Requires-Dist") or []
    always = [line for line in requirements if "extra ==" not in line]
    serve = [r for r in requirements if "extra == 'serve'" in r or "extra == 'http'" in r]
    assert any(line.startswith("fastapi") for line in serve)
    assert any(line.startswith("onnxruntime>") for line in serve)
    for line in always + serve:
        assert not line.startswith(("torch", "gymnasium", "ale-py", "onnx>", "onnxscript"))


def test_an_extra_has_one_runtime_at_most(metadata: Message) -> None:
    """The wheels of ONNX Runtime unpack the same package."""
    requirements = metadata.get_all("Requires-Dist") or []
    runtimes = {
        extra: [r for r in requirements if r.startswith("onnxruntime") and f"'{extra}'" in r]
        for extra in ("http", "serve", "serve-cuda", "serve-openvino", "compress")
    }
    assert {extra: len(found) for extra, found in runtimes.items()} == {
        "http": 0,
        "serve": 1,
        "serve-cuda": 1,
        "serve-openvino": 1,
        "compress": 1,
    }
