from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from slimq.core.errors import NotFoundError, RepositoryError
from slimq.core.model_file.described import read_described
from slimq_service.variants import model_files as module
from slimq_service.variants.model_files import ModelFile, ModelFiles

KEY, OTHER = ("tiny", "fp32"), ("tiny", "other")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The variants whose files were made so far, by the real function."""
    names: list[str] = []

    def counted(repository: Any, policy: str, variant: str, draws: int) -> Any:
        names.append(variant)
        return read_described(repository, policy, variant, draws)

    monkeypatch.setattr(module, "read_described", counted)
    return names


def files(service: Any) -> ModelFiles:
    found: ModelFiles = service.app.catalogue.model_files
    return found


def read(service: Any, key: tuple[str, str] = KEY) -> ModelFile:
    service.run(service.app.catalogue.refresh())
    found: ModelFile = service.run(files(service).read(service.app.catalogue.scan, key))
    return found


def test_a_file_is_made_once_for_all_who_want_it(service: Any, made: list[str]) -> None:
    async def all_at_once() -> list[ModelFile]:
        scan = service.app.catalogue.scan
        return await asyncio.gather(*(files(service).read(scan, KEY) for _ in range(8)))

    found = service.run(all_at_once())
    assert all(one is found[0] for one in found)
    assert read(service) is found[0]
    assert made == ["fp32"]


def test_a_new_version_is_made_anew(service: Any, repositories: Any, mlp: Any) -> None:
    before = read(service)
    repositories.publish("tiny", "fp32", mlp(4))
    after = read(service)
    assert after.sha256 != before.sha256
    assert after.content.startswith(mlp(4))


def test_the_files_fetched_last_are_kept(
    service: Any, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KEPT_BYTES", len(read(service).content) + 100)
    read(service, OTHER)
    read(service, OTHER)
    gc.collect()
    read(service)
    assert made == ["fp32", "other", "fp32"]


def test_a_file_beyond_the_limit_is_shared_while_it_is_needed_and_not_kept(
    service: Any, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KEPT_BYTES", 1)
    first = read(service)
    assert read(service) is first
    del first
    gc.collect()
    read(service)
    assert made == ["fp32", "fp32"]


def test_a_request_that_is_given_up_leaves_the_others_theirs(service: Any, made: list[str]) -> None:
    async def give_up() -> ModelFile:
        scan = service.app.catalogue.scan
        first = asyncio.create_task(files(service).read(scan, KEY))
        second = asyncio.create_task(files(service).read(scan, KEY))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert service.run(give_up()).name == "tiny-fp32.onnx"
    assert made == ["fp32"]


def test_what_is_missing_or_broken_is_an_error_every_time(
    service: Any, repositories: Any, tiny_repository: Path
) -> None:
    with pytest.raises(NotFoundError):
        read(service, ("tiny", "none"))
    repositories.corrupt("tiny", "other")
    for _ in range(2):
        with pytest.raises(RepositoryError, match="sha256"):
            read(service, OTHER)
