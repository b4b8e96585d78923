from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from slimq.core.errors import InvalidInputError
from slimq.importing.files import reading
from slimq.importing.files.reading import open_archive, read_file, read_member
from slimq.importing.files.tensors import load_tensors


def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "RATIO_FROM", 1 << 16)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(1 << 20))
    archive = open_archive(path.read_bytes(), "bomb")
    with pytest.raises(InvalidInputError, match="bomb: expected members of at most"):
        read_member(archive, "data.pkl", "bomb")
    with pytest.raises(InvalidInputError, match=r"'data\.pkl' of 1,048,576 bytes in"):
        load_tensors(path.read_bytes(), "bomb")


def test_a_member_with_wrong_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "correct")
    content = path.read_bytes().replace(b"correct", b"changed")
    with pytest.raises(InvalidInputError, match="'data' damaged"):
        read_member(open_archive(content, "x"), "data", "x")
    with pytest.raises(InvalidInputError, match="an archive with 'other', received one with data"):
        read_member(open_archive(path.read_bytes(), "x"), "other", "x")


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(InvalidInputError, match="an empty file"):
        read_file(tmp_path / "empty")
    with pytest.raises(InvalidInputError, match="No such file"):
        read_file(tmp_path / "none")
    with pytest.raises(InvalidInputError, match="a folder"):
        read_file(tmp_path)
