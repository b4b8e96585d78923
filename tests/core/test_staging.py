"""A folder appears whole or not at all, and replaces only an earlier export."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from slimq.core.errors import InvalidInputError
from slimq.core.staging import FolderKind, staged

REPORT = "report.json"
EXPORT = FolderKind("an export", f"its {REPORT}", lambda folder: (folder / REPORT).is_file())


def write(output: Path, *, replace: bool = False, text: str = "new") -> None:
    with staged(output, EXPORT, replace=replace) as folder:
        (folder / REPORT).write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with staged(tmp_path / "inner" / "out", EXPORT) as folder:
            (folder / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path / "inner") == []


def test_an_error_keeps_the_earlier_export(tmp_path: Path) -> None:
    output = tmp_path / "out"
    write(output, text="old")

    def fail() -> None:
        with staged(output, EXPORT, replace=True):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (names(tmp_path), (output / REPORT).read_text()) == (["out"], "old")


def test_an_export_is_replaced_on_demand_only(tmp_path: Path) -> None:
    output = tmp_path / "out"
    write(output, text="old")
    with pytest.raises(InvalidInputError, match=r"an earlier export; --force replaces it"):
        write(output)
    write(output, replace=True)
    assert (names(tmp_path), (output / REPORT).read_text()) == (["out"], "new")


def test_an_interruption_between_the_renames_keeps_the_earlier_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, rename = tmp_path / "out", Path.rename
    write(output, text="old")

    def interrupted(path: Path, target: Path) -> Path:
        if target == output and (path / REPORT).read_text() == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(output, replace=True)
    assert (names(tmp_path), (output / REPORT).read_text()) == (["out"], "old")


def test_errors_of_the_system_name_the_folder(tmp_path: Path) -> None:
    def fill_the_disk() -> None:
        with staged(tmp_path / "out", EXPORT):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device") as full:
        fill_the_disk()
    assert full.value.filename == str(tmp_path / "out")
    long = tmp_path / ("x" * 250)
    with pytest.raises(OSError, match="name too long") as unwritable:
        write(long)
    assert unwritable.value.filename == str(long)


def test_other_files_are_never_replaced(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("precious")
    with pytest.raises(InvalidInputError, match="which has other files"):
        write(output, replace=True)
    assert names(output) == ["thesis.txt"]


def test_a_file_or_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(InvalidInputError, match="which is not a folder"):
            write(tmp_path / name, replace=True)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    assert names(tmp_path / "out") == [REPORT]
