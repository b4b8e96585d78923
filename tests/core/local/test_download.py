"""Downloads from a server that cuts them, changes the file and sends what it should not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model_server import ModelServer
from slimq.core.errors import ServiceError
from slimq.core.local import download
from slimq.core.local.cache import ModelCache
from slimq.core.local.download import ModelSource

FIRST, SECOND = (np.random.default_rng(seed).bytes(300_000) for seed in (1, 2))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(FIRST) as made:
        yield made


def source(server: ModelServer, folder: Path) -> ModelSource:
    return ModelSource(server.url, ModelCache(folder), timeout=10)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_fetched_once(server: ModelServer, tmp_path: Path) -> None:
    for _ in range(2):
        found = source(server, tmp_path).fetch()
        assert (found.content, found.sha256) == (FIRST, sha256(FIRST))
    assert (len(server.requests), server.questions) == (1, 2)


def test_a_download_that_is_cut_goes_on_where_it_ended(server: ModelServer, tmp_path: Path) -> None:
    server.cut_after = [100_000, 50_000]
    assert source(server, tmp_path).fetch().content == FIRST
    ranges = [request.get("range") for request in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert server.requests[1]["if-range"] == f'"{sha256(FIRST)}"'


def test_a_later_call_goes_on_with_what_an_earlier_one_left(
    server: ModelServer, tmp_path: Path
) -> None:
    server.cut_after = [100_000, 0, 0, 0, 0]
    with pytest.raises(ServiceError, match="cannot be reached"):
        source(server, tmp_path).fetch()
    assert not list(tmp_path.glob("*.onnx"))
    server.requests.clear()
    assert source(server, tmp_path).fetch().content == FIRST
    assert [request.get("range") for request in server.requests] == ["bytes=100000-"]


def test_a_part_that_was_complete_is_checked_and_taken(server: ModelServer, tmp_path: Path) -> None:
    (tmp_path / f"{sha256(FIRST)}.part").write_bytes(FIRST)
    assert source(server, tmp_path).fetch().content == FIRST
    assert len(server.requests) == 1


def test_a_part_that_was_damaged_is_fetched_anew(server: ModelServer, tmp_path: Path) -> None:
    (tmp_path / f"{sha256(FIRST)}.part").write_bytes(b"\0" * 1000)
    assert source(server, tmp_path).fetch().content == FIRST
    assert [request.get("range") for request in server.requests] == ["bytes=1000-", None]


def test_a_server_without_ranges_sends_all_of_it_again(server: ModelServer, tmp_path: Path) -> None:
    server.cut_after, server.ranges = [100_000], False
    assert source(server, tmp_path).fetch().content == FIRST


def test_a_file_that_changes_while_it_is_fetched_is_fetched_again(
    server: ModelServer, tmp_path: Path
) -> None:
    server.cut_after, server.changes = [100_000], [SECOND]
    found = source(server, tmp_path).fetch()
    assert (found.content, found.sha256) == (SECOND, sha256(SECOND))
    assert [path.stem for path in tmp_path.glob("*.onnx")] == [sha256(SECOND)]


def test_a_file_that_never_stays_the_same_is_an_error(server: ModelServer, tmp_path: Path) -> None:
    server.cut_after = [1000] * 20
    server.changes = [np.random.default_rng(seed).bytes(300_000) for seed in range(10, 30)]
    with pytest.raises(ServiceError, match="changed 5 times while it was fetched"):
        source(server, tmp_path).fetch()
    assert not list(tmp_path.glob("*.onnx"))


def test_other_bytes_than_the_etag_says_are_refused(server: ModelServer, tmp_path: Path) -> None:
    server.etag = f'"{sha256(SECOND)}"'
    with pytest.raises(ServiceError, match="sent bytes that do not match its ETag"):
        source(server, tmp_path).fetch()
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize("etag", ['W/"x"', '"1234"', f'W/"{"0" * 64}"'])
def test_an_etag_that_is_no_sha256_is_refused(
    server: ModelServer, tmp_path: Path, etag: str
) -> None:
    server.etag = etag
    with pytest.raises(ServiceError, match="expected the sha256 of the model as ETag, received"):
        source(server, tmp_path).fetch()


def test_an_error_of_the_service_is_given_with_its_reason(
    server: ModelServer, tmp_path: Path
) -> None:
    server.refuse = 404
    with pytest.raises(ServiceError, match="404 no such model"):
        source(server, tmp_path).fetch()


def test_a_service_that_is_not_there_is_an_error_even_if_the_file_is(tmp_path: Path) -> None:
    with ModelServer(FIRST) as server:
        source(server, tmp_path).fetch()
    with pytest.raises(ServiceError, match=r"cannot be reached .*is the service running\?"):
        source(server, tmp_path).fetch()


def test_an_address_that_is_none_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="expected an address such as"):
        ModelSource("models/pong", ModelCache(tmp_path), timeout=1)


def test_whether_it_changed_is_asked_with_the_etag(server: ModelServer, tmp_path: Path) -> None:
    found = source(server, tmp_path).fetch()
    assert source(server, tmp_path).changed(found.sha256) is None
    server.content = SECOND
    changed = source(server, tmp_path).changed(found.sha256)
    assert changed is not None
    assert changed.content == SECOND
