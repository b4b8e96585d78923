from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from slimq.core.errors import NotFoundError, RepositoryError
from slimq.core.repository import Repository
from slimq_service.api.v2.state import version_state, version_states
from slimq_service.metrics.registry import Registry
from slimq_service.metrics.service import Metrics
from slimq_service.variants.catalogue import Catalogue


def in_catalogue(root: Path, work: Any) -> None:
    async def run() -> None:
        catalogue = Catalogue(Repository(root), Metrics(Registry()), 0.0)
        await catalogue.refresh()
        try:
            await work(catalogue)
        finally:
            await catalogue.close()

    asyncio.run(run())


def test_a_version_is_ready_loading_ready_unloaded(tiny_repository: Path) -> None:
    async def work(catalogue: Catalogue) -> None:
        def state() -> str:
            return version_state(catalogue, "tiny", "fp32").state

        assert state() == "READY", "its first request loads it"
        getting = asyncio.create_task(catalogue.get("tiny", "fp32"))
        await asyncio.sleep(0)
        assert state() == "LOADING"
        await getting
        assert state() == "READY"
        await catalogue.unload("tiny", "fp32")
        assert state() == "UNAVAILABLE"
        with pytest.raises(NotFoundError):
            version_state(catalogue, "tiny", "none")

    in_catalogue(tiny_repository, work)


def test_unreadable_versions_are_unavailable_with_the_reason(repositories: Any) -> None:
    (repositories.root / "tiny_frames" / "policy.json").write_text("{")
    (repositories.folder("tiny", "other") / "variant.json").write_text("{")
    repositories.publish("tiny", "fp32", b"no model at all")

    async def work(catalogue: Catalogue) -> None:
        with pytest.raises(RepositoryError):
            await catalogue.get("tiny", "fp32")
        found = {f"{one.policy}/{one.variant}": one for one in version_states(catalogue)}
        assert len(found) == 4
        assert {one.state for one in found.values()} == {"UNAVAILABLE"}
        assert "variant.json" in found["tiny/other"].reason
        assert "policy.json" in found["tiny_frames/fp32"].reason
        assert "ONNX" in found["tiny/fp32"].reason

    in_catalogue(repositories.root, work)
