from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from builders import make_mlp
from slimq.core.errors import RepositoryError
from slimq.core.stamp import FileStamp
from slimq_service.metrics.registry import Registry
from slimq_service.metrics.service import Metrics
from slimq_service.variants.loading import Leases
from slimq_service.variants.residency import Residents
from slimq_service.variants.snapshot import VariantStamp

ZEROS = [[0, 0, 0, 0]]


def act(service: Any, variant: str) -> None:
    answer = service.act("tiny", ZEROS, params={"variant": variant})
    assert answer.status_code == 200, answer.text


def loaded(service: Any) -> list[str]:
    found = service.get("/readyz").json()["variants"]
    return [v["variant"] for v in found if v["policy"] == "tiny" and v["state"] == "loaded"]


def metric(service: Any, name: str, variant: str) -> float:
    value: float = service.metric(f'{name}{{policy="tiny",variant="{variant}"}}')
    return value


def test_the_least_recently_used_goes_when_the_budget_is_exceeded(
    start: Any, repositories: Any
) -> None:
    repositories.publish("tiny", "third", make_mlp(3))
    service = start()
    for variant in ("fp32", "other", "third"):
        act(service, variant)
    assert loaded(service) == ["fp32", "other", "third"]
    service = start(memory_budget_bytes=1)
    for variant, evicted in (("fp32", None), ("other", "fp32"), ("third", "other")):
        act(service, variant)
        assert loaded(service) == [variant]
        if evicted is not None:
            assert metric(service, "slimq_variant_evictions_total", evicted) == 1
            assert metric(service, "slimq_variant_memory_bytes", evicted) == 0
    assert metric(service, "slimq_variant_memory_bytes", "third") > 0
    act(service, "fp32")  # one that had to go answers again


def test_use_and_not_age_decides_who_goes(start: Any, repositories: Any) -> None:
    service = start()
    residents = service.app.catalogue.residents
    for variant in ("fp32", "other", "fp32"):
        act(service, variant)
    residents._budget = residents.state("tiny", "fp32").loaded.memory_bytes
    assert residents.evict() == 1
    assert loaded(service) == ["fp32"]


def test_what_is_in_use_and_what_is_pinned_stays(start: Any) -> None:
    service = start(memory_budget_bytes=1, pinned=("tiny/fp32",))
    residents: Residents = service.app.catalogue.residents
    act(service, "other")
    assert loaded(service) == ["fp32", "other"]
    state = residents.state("tiny", "other")
    residents.use(("tiny", "fp32"))
    assert state.loaded is not None
    state.loaded.leases.count += 1
    assert residents.evict() == 0
    state.loaded.leases.count -= 1
    assert residents.evict() == 1
    assert loaded(service) == ["fp32"]


def test_every_request_returns_its_lease(start: Any) -> None:
    service = start(max_batch=2)
    leases: list[Leases] = []
    for body in (ZEROS, [[1e39, 0, 0, 0]], ZEROS * 3, "nothing"):
        service.act("tiny", body)
        leases.append(service.app.catalogue.residents.state("tiny", "fp32").loaded.leases)
    assert [one.count for one in leases] == [0] * 4


def test_a_pinned_variant_is_loaded_at_the_start_and_readiness_waits_for_it(start: Any) -> None:
    service = start(pinned=("tiny/other",))
    assert loaded(service) == [] or loaded(service) == ["other"]

    async def wait() -> None:
        while service.app.catalogue.residents.awaited():
            await asyncio.sleep(0.01)

    service.run(asyncio.wait_for(wait(), 5))
    assert loaded(service) == ["other"]
    assert service.get("/readyz").status_code == 200


def test_a_pinned_variant_that_is_not_there_keeps_the_service_unready(start: Any) -> None:
    answer = start(pinned=("tiny/none",)).get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["problem"] == "pinned variants not in memory yet: tiny/none"


def test_what_fails_is_broken_at_once_and_tried_again_later_or_once_it_changed() -> None:
    registry = Registry()
    residents = Residents(Metrics(registry), None, frozenset())
    key, stamp = ("tiny", "fp32"), VariantStamp(None, FileStamp(1, 1, 1, 1, 1))
    error = RepositoryError("tiny/fp32", "broken")
    residents.fail(key, error, stamp, time.monotonic())  # it has gone meanwhile
    state = residents.add(key)
    assert state.may_retry(stamp, 60)
    assert residents.can_answer(*key)
    residents.fail(key, error, stamp, time.monotonic())
    assert 'slimq_variant_broken{policy="tiny",variant="fp32"} 1.0' in registry.render()
    assert not residents.can_answer(*key)
    assert not state.may_retry(stamp, 60)
    assert state.may_retry(stamp, 0)
    assert state.may_retry(VariantStamp(None, FileStamp(1, 1, 1, 1, 2)), 60)


def test_a_pinned_variant_cannot_be_unloaded(start: Any) -> None:
    service = start(pinned=("tiny/other",))
    body = {"parameters": {"variants": ["other"]}}
    answer = service.request("POST", "/v2/repository/models/tiny/unload", json=body)
    assert answer.status_code == 400
    assert "pinned" in answer.json()["error"]


@pytest.mark.parametrize("pinned", ["fp32", "a/b/c", "tiny/../x", "Tiny/fp32"])
def test_a_pinned_name_that_is_none_is_refused(pinned: str) -> None:
    from slimq.core.errors import ConfigError
    from slimq_service.settings_reading import read_settings

    with pytest.raises(ConfigError, match="SLIMQ_PINNED"):
        read_settings(pinned=pinned)
