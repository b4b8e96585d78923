from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import make_mlp
from slimq.core.manifest import Shadow as Shadowing
from slimq.core.publish import Publisher
from slimq.core.repository import Repository
from slimq_service.inference import shadow as module

LABELS = '{policy="tiny",shadow="other",variant="fp32"}'
OBSERVATIONS = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)


@pytest.fixture
def watched(start: Any, tiny_repository: Path) -> Any:
    """The service, with `other` looking at everything that is answered."""
    shadowing = Shadowing(variant="other", share=1.0)
    Publisher(Repository(tiny_repository)).shadow("tiny", shadowing)
    return start()


def act(service: Any, observations: Any = OBSERVATIONS, variant: str = "fp32") -> Any:
    answer = service.act("tiny", observations.tolist(), params={"variant": variant})
    assert answer.status_code == 200, answer.text
    return answer.json()


def metric(service: Any, line: str) -> float:
    rows = [r.rpartition(" ") for r in service.get("/metrics").text.splitlines()]
    return next((float(row[2]) for row in rows if row[0] == line), 0.0)


def until(service: Any, line: str, value: float) -> None:
    service.until(lambda: metric(service, line) >= value)
    assert metric(service, line) == value


def test_the_shadow_measures_agreement_difference_and_regret(watched: Any) -> None:
    full = np.array(act(watched)["q_values"])
    until(watched, "slimq_shadow_observations_total" + LABELS, 40)
    ours = np.array(act(watched, variant="other")["q_values"])
    chosen = ours.argmax(axis=1)
    agreements = (chosen == full.argmax(axis=1)).sum()
    assert 0 < agreements < 40
    assert metric(watched, "slimq_shadow_agreements_total" + LABELS) == agreements
    regret = (full.max(axis=1) - full[np.arange(40), chosen]).sum()
    assert metric(watched, "slimq_shadow_regret_sum" + LABELS) == pytest.approx(regret, rel=1e-5)
    difference = np.abs(ours - full).mean(axis=1).sum()
    found = metric(watched, "slimq_shadow_q_difference_sum" + LABELS)
    assert found == pytest.approx(difference, rel=1e-5)


def test_requests_served_by_the_shadow_variant_are_not_compared(watched: Any) -> None:
    act(watched, variant="other")
    act(watched)
    until(watched, "slimq_shadow_observations_total" + LABELS, 40)
    assert 'variant="other"' not in "".join(
        line for line in watched.get("/metrics").text.splitlines() if "slimq_shadow" in line
    )


def test_the_share_of_requests_is_sampled(start: Any, tiny_repository: Path) -> None:
    shadowing = Shadowing(variant="other", share=0.25)
    Publisher(Repository(tiny_repository)).shadow("tiny", shadowing)
    service = start()
    taken = []
    offered = service.app.pipeline.shadow
    offered._wake = asyncio.Event()  # nobody works: what is taken stays
    loaded = service.run(service.app.catalogue.get("tiny", "fp32"))
    zeros = np.zeros((1, 4), np.float32), np.zeros((1, 2), np.float32)
    for _ in range(2000):
        offered.offer(loaded, *zeros)
        taken += offered._waiting
        offered._waiting.clear()
        offered._bytes = 0
    assert len(taken) == pytest.approx(500, abs=80)


def test_the_shadow_yields_first_under_load(watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shadow = watched.app.pipeline.shadow
    monkeypatch.setattr(shadow, "_busy", lambda: True)
    act(watched)
    dropped = 'slimq_shadow_dropped_total{policy="tiny",reason="%s",shadow="other"}'
    assert metric(watched, dropped % "busy") == 1
    monkeypatch.setattr(shadow, "_busy", lambda: False)
    monkeypatch.setattr(module, "MAX_QUEUED_BYTES", 1)
    act(watched)
    assert metric(watched, dropped % "full") == 1
    assert metric(watched, "slimq_shadow_observations_total" + LABELS) == 0


def test_a_shadow_that_cannot_be_loaded_affects_no_request(watched: Any, repositories: Any) -> None:
    repositories.publish("tiny", "other", b"no model at all")
    act(watched)
    until(watched, 'slimq_shadow_dropped_total{policy="tiny",reason="failed",shadow="other"}', 1)
    repositories.publish("tiny", "other", make_mlp(9))
    watched.get("/readyz")
    act(watched)
    until(watched, "slimq_shadow_observations_total" + LABELS, 40)


def test_queued_observations_are_batched_up_to_the_limit(watched: Any) -> None:
    shadow = watched.app.pipeline.shadow
    loaded = watched.run(watched.app.catalogue.get("tiny", "fp32"))
    q_values = np.zeros((20, 2), np.float32)
    for _ in range(3):
        shadow.offer(loaded, OBSERVATIONS[:20], q_values)
    assert [len(item.observations) for item in shadow._take()] == [20]
    shadow._max_batch = 40
    assert len(shadow._take()) == 2
    assert shadow._bytes == 0


def test_a_failure_drops_only_what_was_not_compared_yet(watched: Any) -> None:
    """Where each is computed by itself, as activations are quantized over a batch."""
    shadow = watched.app.pipeline.shadow
    loaded = watched.run(watched.app.catalogue.get("tiny", "fp32"))
    state = watched.app.catalogue.residents.state("tiny", "other")
    watched.run(watched.app.catalogue.get("tiny", "other"))
    calls = []

    def fail_later(observations: Any, /) -> Any:
        calls.append(len(observations))
        if len(calls) > 1:
            raise ValueError
        return np.zeros((len(observations), 2), np.float32)

    state.loaded = dataclasses.replace(state.loaded, q_function=fail_later, batch_invariant=False)
    for _ in range(3):
        shadow.offer(loaded, OBSERVATIONS[:1], np.zeros((1, 2), np.float32))
    watched.run(shadow._work(shadow._take()))
    dropped = 'slimq_shadow_dropped_total{policy="tiny",reason="failed",shadow="other"}'
    assert metric(watched, dropped) == 2
    assert metric(watched, "slimq_shadow_observations_total" + LABELS) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_q_values_do_not_spoil_sums(watched: Any, value: float) -> None:
    shadow = watched.app.pipeline.shadow
    loaded = watched.run(watched.app.catalogue.get("tiny", "fp32"))
    shadow.offer(loaded, OBSERVATIONS[:2], np.zeros((2, 2), np.float32))
    (item,) = shadow._take()
    shadow._count(item, np.array([[0, value], [0, 0]], np.float32))
    dropped = 'slimq_shadow_dropped_total{policy="tiny",reason="failed",shadow="other"}'
    assert metric(watched, dropped) == 1
    shadow._count(item, np.zeros((2, 2), np.float32))
    assert metric(watched, "slimq_shadow_q_difference_sum" + LABELS) == 0
    assert metric(watched, "slimq_shadow_observations_total" + LABELS) == 2


def test_shadow_series_exist_before_the_first_comparison(watched: Any) -> None:
    text = watched.get("/metrics").text
    assert f"slimq_shadow_observations_total{LABELS} 0.0" in text
    assert f"slimq_shadow_regret_count{LABELS} 0.0" in text
    for reason in (module.BUSY, module.FULL, module.FAILED):
        labels = f'{{policy="tiny",reason="{reason}",shadow="other"}}'
        assert f"slimq_shadow_dropped_total{labels} 0.0" in text
    assert 'policy="tiny_frames",shadow' not in text
