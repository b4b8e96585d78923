from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from slimq.core.manifest import Routing
from slimq.core.publish import Publisher
from slimq.core.repository import Repository
from slimq_service.errors import LimitError
from slimq_service.requests.routing import KEY_HEADER, default_variant, with_key

ZEROS = [[0, 0, 0, 0]]


@pytest.fixture
def route(tiny_repository: Path) -> Any:
    publisher = Publisher(Repository(tiny_repository))

    def change(**weights: float) -> Any:
        return publisher.route("tiny", Routing(weights=weights) if weights else None)

    return change


def headers(key: str) -> list[tuple[bytes, bytes]]:
    return [(KEY_HEADER.lower().encode(), key.encode())]


def always(policy: str, variant: str) -> bool:
    return True


def test_without_weights_requests_go_to_the_default(route: Any) -> None:
    assert default_variant(route(), headers("a"), always) == "fp32"


def test_keys_are_spread_by_weight_and_are_sticky(route: Any) -> None:
    policy = route(fp32=3, other=1)
    chosen = [default_variant(policy, headers(f"user-{n}"), always) for n in range(4000)]
    assert Counter(chosen)["other"] == pytest.approx(1000, abs=110)  # four standard deviations
    assert chosen == [default_variant(policy, headers(f"user-{n}"), always) for n in range(4000)]


def test_raising_a_weight_moves_keys_to_that_variant_only(route: Any) -> None:
    keys = [headers(f"user-{n}") for n in range(2000)]
    before = [default_variant(route(fp32=9, other=1), key, always) for key in keys]
    after = [default_variant(route(fp32=9, other=4), key, always) for key in keys]
    moved = {(old, new) for old, new in zip(before, after, strict=True) if old != new}
    assert moved == {("fp32", "other")}


def test_requests_without_a_key_are_spread_by_weight(route: Any) -> None:
    policy = route(fp32=1, other=3)
    chosen = Counter(default_variant(policy, [], always) for _ in range(4000))
    assert chosen["other"] == pytest.approx(3000, abs=110)


def test_a_weight_of_zero_gets_no_requests(route: Any) -> None:
    policy = route(fp32=0, other=1)
    assert {default_variant(policy, [], always) for _ in range(100)} == {"other"}


def test_broken_variants_get_no_requests_and_if_all_are_broken_the_default_reports_why(
    route: Any,
) -> None:
    policy = route(fp32=1, other=1)
    only = {default_variant(policy, [], lambda _, variant: variant == "other") for _ in range(50)}
    assert only == {"other"}
    assert default_variant(policy, [], lambda *_: False) == "fp32"


def test_a_long_key_is_refused(route: Any) -> None:
    with pytest.raises(LimitError, match="Routing-Key: expected at most 256 bytes"):
        default_variant(route(fp32=1), headers("x" * 257), always)


def test_new_weights_apply_without_reloading(start: Any, route: Any) -> None:
    service = start()
    for variant in ("fp32", "other"):
        service.act("tiny", ZEROS, params={"variant": variant})
    route(other=1)
    service.get("/readyz")  # looks at the repository
    assert service.act("tiny", ZEROS).json()["variant"] == "other"
    body = {
        "inputs": [{"name": "observations", "datatype": "FP32", "shape": [1, 4], "data": ZEROS}]
    }
    answer = service.request("POST", "/v2/models/tiny/infer", json=body)
    assert answer.json()["model_version"] == "other"
    assert service.act("tiny", ZEROS, params={"variant": "fp32"}).json()["variant"] == "fp32"
    series = 'slimq_variant_loads_total{outcome="success",policy="tiny",variant="other"}'
    assert service.metric(series) == 1
    route(fp32=1, other=1)
    service.get("/readyz")
    sticky = [
        service.act("tiny", ZEROS, headers={KEY_HEADER: "robot-7"}).json()["variant"]
        for _ in range(10)
    ]
    assert len(set(sticky)) == 1


def test_requests_of_a_broken_canary_go_to_the_others(
    start: Any, route: Any, repositories: Any
) -> None:
    repositories.publish("tiny", "other", b"no model at all")
    route(fp32=1, other=1000)
    service = start()
    service.act("tiny", ZEROS)  # the first may find out
    answers = [service.act("tiny", ZEROS) for _ in range(10)]
    assert [(a.status_code, a.json()["variant"]) for a in answers] == [(200, "fp32")] * 10


def test_headers_without_a_key_get_a_random_one(route: Any) -> None:
    assert with_key(headers("a")) == headers("a")
    policy, given = route(fp32=1, other=3), [(b"host", b"test")]
    keyed = [list(with_key(given)) for _ in range(4000)]
    assert all(one[0] == (b"host", b"test") for one in keyed)
    chosen = [default_variant(policy, one, always) for one in keyed]
    assert Counter(chosen)["other"] == pytest.approx(3000, abs=110)
    assert chosen == [default_variant(policy, one, always) for one in keyed]
