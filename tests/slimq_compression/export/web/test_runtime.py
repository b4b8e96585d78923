"""ONNX Runtime Web is taken from where it is, and only if it is what was expected."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import pytest

from slimq.core.errors import ConfigError, InvalidInputError
from slimq.core.user_cache import user_cache_folder
from slimq_compression.export.web.runtime import (
    SCRIPT,
    SOURCES,
    VERSION,
    WASM,
    Runtime,
    find_runtime,
    licences,
)
from web_exports import require_runtime


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    require_runtime()
    return find_runtime(None)


@pytest.fixture
def package(runtime: Runtime, tmp_path: Path) -> Path:
    """The package as npm unpacks it, with the files that are read."""
    folder = tmp_path / "package" / "dist"
    folder.mkdir(parents=True)
    for name, content in runtime.files.items():
        (folder / SOURCES[name]).write_bytes(content)
    return tmp_path / "package"


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and a registry that does not answer."""
    monkeypatch.setenv("SLIMQ_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))


def test_the_cache_has_what_the_page_loads(runtime: Runtime) -> None:
    kept = user_cache_folder() / f"onnxruntime-web-{VERSION}"
    assert {path.name for path in kept.iterdir()} == {SCRIPT, WASM, *licences()}
    assert runtime.bytes == sum(len((kept / name).read_bytes()) for name in runtime.files)
    assert find_runtime(None) == runtime


def test_licences_are_those_of_the_runtime() -> None:
    found = licences()
    assert b"Microsoft Corporation" in found["LICENSE"]
    assert b"protobuf" in found["ThirdPartyNotices.txt"]


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("inner", ["", "dist", ".."])
def test_a_folder_needs_neither_cache_nor_network(
    inner: str, package: Path, runtime: Runtime
) -> None:
    assert find_runtime((package / inner).resolve()) == runtime


@pytest.mark.usefixtures("nowhere")
def test_so_does_a_tarball(package: Path, tmp_path: Path, runtime: Runtime) -> None:
    tarball = tmp_path / "runtime.tgz"
    with tarfile.open(tarball, "w:gz", compresslevel=1) as archive:
        archive.add(package, "package")
    assert find_runtime(tarball) == runtime


def test_another_version_is_refused(package: Path, tmp_path: Path) -> None:
    script = package / "dist" / SOURCES[SCRIPT]
    script.write_bytes(script.read_bytes() + b"\n")
    with pytest.raises(
        InvalidInputError, match=f"of onnxruntime-web {VERSION}, received .*without"
    ):
        find_runtime(package)
    tarball = tmp_path / "runtime.tgz"
    with tarfile.open(tarball, "w:gz", compresslevel=1) as archive:
        archive.add(package, "package")
    with pytest.raises(InvalidInputError, match=r"expected SHA-256 11e64bd8ffe1… of version"):
        find_runtime(tarball)


@pytest.mark.parametrize("content", [b"", b"no tarball", b"\x1f\x8b\x08\x00"])
def test_what_is_no_tarball_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "runtime.tgz"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="runtime: expected the folder or tarball of "):
        find_runtime(path)


def test_a_tarball_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("other")
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as archive:
        archive.add(tmp_path / "file", "package/file")
    with pytest.raises(InvalidInputError, match="no file package/dist/"):
        find_runtime(tmp_path / "other.tgz")


def test_a_path_without_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="which does not exist"):
        find_runtime(tmp_path / "none")


@pytest.mark.usefixtures("nowhere")
def test_without_npm_the_option_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="npm, which fetches it, is not installed; --runtime"):
        find_runtime(None)


@pytest.mark.skipif(
    shutil.which("npm") is None and "CI" not in os.environ, reason="`.ci/need npm` installs npm"
)
@pytest.mark.usefixtures("nowhere")
def test_without_a_network_npms_own_reason_is_given(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"npm cannot fetch it: .*; --runtime takes") as caught:
        find_runtime(None)
    assert "127.0.0.1:9" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()
