from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from slimq.core.local.cache import ModelCache
from waiting import until

CONTENT = b"the model"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def put(cache: ModelCache, content: bytes = CONTENT) -> bytes | None:
    with cache.part(SHA256) as part:
        part.write(content)
        return part.finish()


def test_a_file_is_there_once_it_is_complete(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "deep" / "down")
    assert cache.read(SHA256) is None
    assert put(cache) == CONTENT
    assert cache.read(SHA256) == CONTENT
    assert not list(cache.folder.glob("*.part"))


def test_a_beginning_is_kept_and_added_to(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    with cache.part(SHA256) as part:
        part.write(CONTENT[:4])
    assert cache.read(SHA256) is None
    with cache.part(SHA256) as part:
        assert part.size == 4
        part.write(CONTENT[4:])
        assert part.finish() == CONTENT


def test_other_bytes_never_get_the_name(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    with cache.part(SHA256) as part:
        part.write(b"another!!")
        assert part.finish() is None
        assert part.size == 0
        part.write(CONTENT)
        assert part.finish() == CONTENT


def test_a_file_that_was_damaged_is_removed(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    put(cache)
    (tmp_path / f"{SHA256}.onnx").write_bytes(b"damaged")
    assert cache.read(SHA256) is None
    assert not list(tmp_path.glob("*.onnx"))


def test_a_file_is_fetched_by_one_at_a_time(tmp_path: Path) -> None:
    cache, order = ModelCache(tmp_path), []

    def second() -> None:
        with cache.part(SHA256):
            order.append("second")

    with cache.part(SHA256):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    until(lambda: len(order) == 2, 10)
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=str(tmp_path)):
        put(ModelCache(tmp_path / "models"))


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("x")
    with pytest.raises(FileExistsError, match="models"):
        put(ModelCache(tmp_path / "models"))
