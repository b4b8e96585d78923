from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from full_disk import contents, fill, small_disk
from slimq.core.atomic import append_whole, naming, write_atomically


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "64k") as place:
        yield place


def test_an_append_is_whole_or_leaves_the_file_as_it_was(disk: Path) -> None:
    path = disk / "log"
    # The rest of the last page can be written when the disk is full, which makes it a partial one.
    append_whole(path, b"a" * 4_000)
    filler = fill(disk)
    with pytest.raises(OSError, match="log") as error:
        append_whole(path, b"b" * 1_000)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == b"a" * 4_000
    filler.unlink()
    append_whole(path, b"b" * 1_000)
    assert path.read_bytes() == b"a" * 4_000 + b"b" * 1_000


def test_a_failed_first_append_leaves_no_file(disk: Path) -> None:
    fill(disk)
    with pytest.raises(OSError, match="new"):
        append_whole(disk / "new", b"a")
    assert contents(disk) == {}


def test_a_failed_write_names_the_file_and_leaves_the_old_one(disk: Path) -> None:
    path = disk / "network"
    write_atomically(path, b"old")
    fill(disk)
    with pytest.raises(OSError, match="No space left") as error:
        write_atomically(path, b"new" * 5_000)
    assert error.value.filename == str(path)
    assert contents(disk) == {"network": b"old"}


def test_an_error_without_a_number_stays_as_it_is() -> None:
    with pytest.raises(OSError, match=r"^strange$"), naming(Path("x")):
        raise OSError("strange")
