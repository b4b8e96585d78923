"""The pins of the images: they are whole, what pyproject.toml asks for, and have no torch."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker" / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NAMES = ("build", "serve", "load", "train")


def pins(name: str) -> dict[str, str]:
    text = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, flags=re.MULTILINE))


def asked(*extras: str) -> list[Requirement]:
    """What slimq asks for with these extras, those of its own extras among it."""
    project = PROJECT["project"]
    found = [Requirement(line) for line in project["dependencies"]]
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            requirement = Requirement(line)
            if requirement.name == "slimq":
                found += asked(*requirement.extras)
            else:
                found.append(requirement)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_pin_has_hashes(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    blocks = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins(name)) > 0
    for block in blocks:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block


@pytest.mark.parametrize(
    ("name", "extra"), [("serve", "serve"), ("load", "load"), ("train", "all")]
)
def test_what_is_pinned_is_what_the_project_asks_for(name: str, extra: str) -> None:
    pinned = pins(name)
    for requirement in asked(extra):
        if requirement.name != "torch" and (
            requirement.marker is None or requirement.marker.evaluate({"sys_platform": "linux"})
        ):
            version = pinned.get(canonicalize_name(requirement.name))
            assert version is not None, f"{requirement.name}: make lock"
            assert requirement.specifier.contains(version), f"{requirement}: make lock"


def test_the_build_backend_is_pinned() -> None:
    for line in PROJECT["build-system"]["requires"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins("build")[requirement.name])


@pytest.mark.parametrize("name", NAMES)
def test_torch_and_what_it_brings_for_cuda_are_not_pinned(name: str) -> None:
    assert [pin for pin in pins(name) if re.match(r"torch|triton|nvidia|cuda", pin)] == []


def test_the_service_has_no_pin_that_only_training_needs() -> None:
    assert not {"gymnasium", "ale-py", "onnx", "onnxscript", "scipy", "optuna"} & set(pins("serve"))


@pytest.mark.parametrize("dockerfile", ["service", "loadtest", "trainer"])
def test_an_image_is_labelled_with_the_version(dockerfile: str) -> None:
    text = (ROOT / "docker" / f"{dockerfile}.Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^ARG VERSION=(.*)$", text, flags=re.MULTILINE) == [
        PROJECT["project"]["version"]
    ]


def test_where_uv_refuses_it_is_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docker"))
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho no version of $3 will do >&2\nexit 1\n", encoding="utf-8")
    uv.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(SystemExit, match=r"^uv pip compile a\.in failed:\nno version of a\.in"):
        importlib.import_module("lock").resolve("a.in")


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_every_pin_of_the_service_has_a_wheel_for(machine: str, tmp_path: Path) -> None:
    """Downloads them, by hash and without building, as pip on such a machine would."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"),
        *("--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp"),
        *("--platform", f"manylinux2014_{machine}", "--platform", f"manylinux_2_28_{machine}"),
        *("-r", str(FOLDER / "serve.txt"), "-d", str(tmp_path)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    wheels = [path.name for path in tmp_path.glob("*.whl")]
    assert len(wheels) == len(pins("serve"))
    compiled = [name for name in wheels if not name.endswith("-any.whl")]
    assert compiled
    assert all(name.endswith(f"_{machine}.whl") for name in compiled)
